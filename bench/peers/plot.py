"""The results as pictures: packet rate against the number of policies, and against the number of flows (SVG)."""

from xml.sax.saxutils import escape

from traffic import NEW

WIDTH, HEIGHT = 1010, 520
LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 70, 50, 560, 390
COLOURS = ["#d62728", "#7f7f7f", "#9a9a9a", "#c0c0c0", "#1f77b4", "#17a2a2", "#2ca02c", "#8fbc3b", "#9467bd", "#b79ad6",
           "#e377c2", "#8c564b", "#ff9f1c"]


def by_policies(results):
    """At 1,000 flows."""
    wanted = sorted((workload for workload in results.workloads if workload.flows == 1000), key=lambda each: each.policies)
    return chart(results, wanted, "Packet rate against policies, 1,000 flows", "policies",
                 [f"{workload.policies:,}" for workload in wanted])


def by_flows(results):
    """At the largest number of policies."""
    most = max((workload.policies for workload in results.workloads), default=0)
    wanted = sorted((workload for workload in results.workloads if workload.policies == most),
                    key=lambda each: float("inf") if each.flows == NEW else each.flows)
    return chart(results, wanted, f"Packet rate against flows, {most:,} policies", "flows",
                 ["new with every packet" if workload.flows == NEW else f"{workload.flows:,}" for workload in wanted])


def nice_top(value):
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten."""
    scale = 1.0
    while value > 10 * scale:
        scale *= 10
    while 0 < value <= scale:
        scale /= 10
    return next(step * scale for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if value <= step * scale)


def chart(results, workloads, title, axis, labels):
    """One line for each system; the places on the x axis are evenly apart."""
    lines = []
    for number, system in enumerate(results.systems):
        points = []
        for place, workload in enumerate(workloads):
            median = results.median(system["name"], workload)
            if median is not None:
                rates = results.rates(system["name"], workload)
                points.append((place, median / 1e6, min(rates) / 1e6, max(rates) / 1e6))
        if points:
            lines.append((system, COLOURS[number % len(COLOURS)], points))
    top = nice_top(max((point[3] for _, _, points in lines for point in points), default=1))

    def x(place):
        return LEFT + 40 + (PLOT_WIDTH - 80) * (place / (len(workloads) - 1) if len(workloads) > 1 else 0.5)

    def y(rate):
        return TOP + PLOT_HEIGHT * (1 - rate / top)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
           'font-family="sans-serif" font-size="13">', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           text(LEFT, 28, title, size=17)]
    for step in range(6):
        rate = top * step / 5
        out.append(f'<line x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y(rate):.1f}" y2="{y(rate):.1f}" stroke="#dddddd"/>')
        out.append(text(LEFT - 8, y(rate) + 4, f"{rate:.3g}", anchor="end"))
    out.append(f'<text transform="translate(20 {TOP + PLOT_HEIGHT / 2}) rotate(-90)" text-anchor="middle">Mpps that arrive</text>')
    for place, label in enumerate(labels):
        out.append(text(x(place), TOP + PLOT_HEIGHT + 22, label, anchor="middle"))
    out.append(text(LEFT + PLOT_WIDTH / 2, TOP + PLOT_HEIGHT + 46, axis, anchor="middle"))
    for system, colour, points in lines:
        width = 3.5 if system["name"] == "podgate" else 1.6
        dashes = "" if system["judges"] else ' stroke-dasharray="6 4"'
        path = " ".join(f"{x(place):.1f},{y(rate):.1f}" for place, rate, _, _ in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>')
        for place, rate, low, high in points:
            out.append(f'<line x1="{x(place):.1f}" x2="{x(place):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" stroke="{colour}"/>')
            out.append(f'<circle cx="{x(place):.1f}" cy="{y(rate):.1f}" r="3.5" fill="{colour}"/>')
    # The legend is in the order of the lines' right ends.
    for number, (system, colour, _) in enumerate(sorted(lines, key=lambda line: -line[2][-1][1])):
        height = TOP + 12 + 24 * number
        dashes = "" if system["judges"] else ' stroke-dasharray="6 4"'
        left = LEFT + PLOT_WIDTH + 20
        out.append(f'<line x1="{left}" x2="{left + 26}" y1="{height}" y2="{height}" stroke="{colour}" stroke-width="3"{dashes}/>')
        out.append(text(left + 34, height + 4, system["title"], size=12))
    return "\n".join([*out, "</svg>"]) + "\n"


def text(x, y, words, anchor="start", size=13):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'
