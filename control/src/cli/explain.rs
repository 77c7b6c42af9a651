//! `podgate explain` and `podgate matrix`, from manifests or from the running gateway.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;
use podgate_config::manifest::{Severity, assign_addresses};

use super::args::{ExplainArgs, MatrixArgs, WorldArgs};
use super::console::{Console, Outcome};
use super::flow;
use crate::admin::client::Client;
use crate::admin::protocol::{ProbeAnswers, Request};
use crate::explain::{
    End, Explanation, FlowExplanation, FlowQuery, IpProtocol, Matrix, Query, World, explain_text, matrix,
    matrix_text, probes,
};
use crate::{source, store};

/// How many probes go to the gateway in one request.
const BATCH: usize = 1000;

/// Who is asked.
enum Oracle {
    Manifests(Box<World>),
    Gateway(Client),
}

/// `podgate explain`. A deny is an answer: exit code 0.
pub fn explain(args: &ExplainArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let Some(source_port) = args.sport else { return explain_question(args, console) };
    match &args.world.socket {
        Some(socket) => {
            let query = FlowQuery { query: question(args)?, source_port };
            explain_flow(socket, query, console)
        }
        None => anyhow::bail!("--sport asks about a connection of a running gateway; name its --socket"),
    }
}

fn explain_question(args: &ExplainArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let Some(mut oracle) = ask_whom(&args.world)? else { return Ok(Outcome::BadNews) };
    if let Some(path) = &args.probes {
        return answer_probes(&mut oracle, path, console);
    }
    let query = question(args)?;
    let explanation: Explanation = match &mut oracle {
        Oracle::Manifests(world) => world.explain(&query)?,
        Oracle::Gateway(client) => client.ask(Request::Explain(query))?,
    };
    if console.json() {
        console.document(&explanation)?;
    } else {
        console.text(&explain_text(&explanation))?;
    }
    Ok(Outcome::Fine)
}

fn question(args: &ExplainArgs) -> anyhow::Result<Query> {
    let (Some(from), Some(to)) = (&args.from, &args.to) else {
        anyhow::bail!("--from and --to are needed, or --probes");
    };
    let protocol = IpProtocol::parse(&args.protocol).context("--protocol")?;
    Ok(Query {
        from: End::parse(from).context("--from")?,
        to: End::parse(to).context("--to")?,
        port: args.port,
        protocol,
    })
}

/// `podgate explain --sport`. That nobody remembers such a connection is an answer too.
fn explain_flow(socket: &Path, query: FlowQuery, console: &mut Console) -> anyhow::Result<Outcome> {
    let explanation: FlowExplanation = Client::connect(socket)?.ask(Request::ExplainFlow(query))?;
    if console.json() {
        console.document(&explanation)?;
    } else {
        flow::print(&explanation, console)?;
    }
    Ok(Outcome::Fine)
}

/// `podgate matrix`.
pub fn reachability(args: &MatrixArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let Some(oracle) = ask_whom(&args.world)? else { return Ok(Outcome::BadNews) };
    let protocol = IpProtocol::parse(&args.protocol).context("--protocol")?;
    let table: Matrix = match oracle {
        Oracle::Manifests(world) => matrix(&*world, protocol, args.port, &[])?,
        Oracle::Gateway(mut client) => client.ask(Request::Matrix { protocol, port: args.port })?,
    };
    if console.json() {
        console.document(&table)?;
    } else {
        console.text(&matrix_text(&table))?;
    }
    Ok(Outcome::Fine)
}

/// The manifests' world, or the gateway; `None` if the manifests are not valid, which was said then.
fn ask_whom(args: &WorldArgs) -> anyhow::Result<Option<Oracle>> {
    if let Some(socket) = &args.socket {
        return Ok(Some(Oracle::Gateway(Client::connect(socket)?)));
    }
    Ok(load_world(&args.files)?.map(|world| Oracle::Manifests(Box::new(world))))
}

/// Reads manifests as the gateway would, and gives pods without addresses those that the lab gives them.
fn load_world(files: &[PathBuf]) -> anyhow::Result<Option<World>> {
    let loaded = source::load(files)?;
    let merged = store::merge(&loaded.objects);
    let errors: Vec<_> = loaded
        .findings
        .iter()
        .chain(&merged.findings)
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    if !errors.is_empty() {
        // Standard output is for answers, and there are none.
        for error in errors {
            eprintln!("{error}");
        }
        return Ok(None);
    }
    let mut cluster = merged.cluster;
    assign_addresses(&mut cluster, None);
    Ok(Some(World::from_cluster(cluster)?))
}

/// One answer a line, in order. Exit code 2 if one could not be answered.
fn answer_probes(oracle: &mut Oracle, path: &Path, console: &mut Console) -> anyhow::Result<Outcome> {
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).with_context(|| path.display().to_string())?))
    };
    let failed = match oracle {
        Oracle::Manifests(world) => probes(&**world, reader, console.writer())?,
        Oracle::Gateway(client) => {
            let mut failed = false;
            let mut lines = reader.lines();
            loop {
                let batch = lines.by_ref().take(BATCH).collect::<io::Result<Vec<String>>>()?;
                if batch.is_empty() {
                    break failed;
                }
                let answers: ProbeAnswers = client.ask(Request::Probes { lines: batch.join("\n") })?;
                console.text(&answers.lines)?;
                failed |= answers.failed;
            }
        }
    };
    Ok(if failed { Outcome::Unusable } else { Outcome::Fine })
}
