"""Tests of what looks at no machine: `bench/peers/run --selftest`."""

import io
import unittest
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import plot
import policy
from report import Results
from topology import checksum, udp_frame
from traffic import NEW, Workload

OURS = SimpleNamespace(name="podgate", title="Podgate", cores="own", judges=True)
PEER = SimpleNamespace(name="peer", title="A & B", cores="sender's", judges=True)
CABLE = SimpleNamespace(name="cable", title="cable", cores="own", judges=False)


def results():
    made = Results("machine", 0.1, 1.5)
    for rate in (3e6, 1e6, 2e6):
        made.add(OURS, Workload(0, 1000), {"arrived": rate, "sent": rate})
        made.add(PEER, Workload(0, 1000), {"arrived": rate / 2, "sent": rate})
    made.add(OURS, Workload(10, 1000), {"arrived": 1e6, "sent": 1e6})
    made.add(OURS, Workload(10, NEW), {"arrived": 5e5, "sent": 1e6})
    made.add(CABLE, Workload(0, 1000), {"arrived": 4e6, "sent": 4e6})
    made.add(PEER, Workload(10, 1000), {"arrived": 9e6, "sent": 9e6})
    made.fail(PEER, Workload(10, 1000), "wrong: denied traffic passed")
    return made


class Report(unittest.TestCase):
    def test_a_cell_is_the_median_with_its_spread(self):
        self.assertEqual(results().cell("podgate", Workload(0, 1000)), "2.000 (1.00 to 3.00)")
        self.assertEqual(results().cell("podgate", Workload(10, 1000)), "1.000")

    def test_what_was_wrong_once_has_no_figure(self):
        made = results()
        self.assertEqual(made.cell("peer", Workload(10, 1000)), "no")
        self.assertIsNone(made.median("peer", Workload(10, 1000)))
        self.assertIn("- peer, 10 policies, 1,000 flows: wrong: denied traffic passed", made.markdown())

    def test_ratios_are_of_the_same_round(self):
        self.assertEqual(results().ratios("peer", Workload(0, 1000)), [2, 2, 2])

    def test_a_system_without_policies_counts_for_all_numbers_of_them(self):
        self.assertEqual(results().median("cable", Workload(10, 1000)), 4e6)

    def test_a_load_is_warned_of(self):
        self.assertNotIn("WARNING", results().head())
        self.assertIn("WARNING", Results("machine", 0.6, 1).head())

    def test_every_row_has_as_many_cells(self):
        rows = [line for line in results().markdown().split("\n\n")[2].splitlines() if line.startswith("|")]
        self.assertEqual(len(rows), 5)
        self.assertEqual(len({row.count("|") for row in rows}), 1)


class Plot(unittest.TestCase):
    def test_pictures_are_well_formed_and_name_the_systems(self):
        for picture in (plot.by_policies(results()), plot.by_flows(results())):
            ElementTree.parse(io.StringIO(picture))
            self.assertIn("Podgate", picture)
        self.assertIn("A &amp; B", plot.by_policies(results()))

    def test_the_axis_ends_above_the_largest(self):
        for value, top in ((0.3, 0.3), (0.31, 0.4), (1, 1), (1.2, 1.5), (9, 10), (11, 15)):
            self.assertAlmostEqual(plot.nice_top(value), top)


class Policy(unittest.TestCase):
    def test_one_rule_allows_what_is_measured(self):
        for count in (1, 100, 10_000):
            listed = policy.rules(count)
            self.assertEqual(len(listed), count)
            self.assertEqual(sum(rule.source == policy.SOURCE for rule in listed), 1)
            self.assertEqual(len({(rule.source, rule.low) for rule in listed}), count)

    def test_frames_have_right_checksums(self):
        frame = udp_frame("src", 4096, 9999)
        self.assertEqual(len(frame), 60)
        self.assertEqual(checksum(frame[14:34]), 0)


def run():
    """0 if all passed."""
    loaded = unittest.defaultTestLoader.loadTestsFromModule(__import__(__name__))
    return 0 if unittest.TextTestRunner(verbosity=1).run(loaded).wasSuccessful() else 1
