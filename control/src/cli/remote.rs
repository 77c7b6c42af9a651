//! Commands that ask the running gateway: `status`, `drops`, `port`.

use std::net::IpAddr;

use serde_json::Value;

use super::args::{DropsArgs, PortAddArgs, PortCommand, PortRemoveArgs, StatusArgs, StatusPart};
use super::console::{Console, Outcome, Tone, time_of_day};
use crate::admin::client::Client;
use crate::admin::protocol::{DropLine, PortSpec, Request};
use crate::status::{PoliciesStatus, PortState, PortStatus, Status, print_ports};

/// `podgate status`. A gateway that is not ready is bad news, and so is a policy that is not in force as its file says.
pub fn status(args: &StatusArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let mut client = Client::connect(&args.socket.socket)?;
    if args.part == Some(StatusPart::Policies) {
        let status: PoliciesStatus = client.ask(Request::StatusPolicies)?;
        if console.json() {
            console.document(&status)?;
        } else {
            status.print(console)?;
        }
        return Ok(if status.all_in_force() { Outcome::Fine } else { Outcome::BadNews });
    }
    let status: Status = client.ask(Request::Status)?;
    if console.json() {
        console.document(&status)?;
    } else {
        status.print(console)?;
    }
    Ok(if status.ready { Outcome::Fine } else { Outcome::BadNews })
}

/// `podgate drops`.
pub fn drops(args: &DropsArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let mut client = Client::connect(&args.socket.socket)?;
    client.send(Request::Drops { follow: args.follow })?;
    while let Some(value) = client.receive()? {
        let line: DropLine = serde_json::from_value(value)?;
        if console.json() {
            console.object(&line)?;
        } else {
            let text = describe(&line, console);
            console.line(text)?;
        }
        // Somebody watches: what happened must not wait in a buffer for more to happen.
        console.flush()?;
    }
    Ok(Outcome::Fine)
}

/// `podgate port`.
pub fn port(command: &PortCommand, console: &mut Console) -> anyhow::Result<Outcome> {
    match command {
        PortCommand::Add(PortAddArgs { socket, interface, pod, uid, addresses, mac }) => {
            let spec = PortSpec {
                interface: interface.clone(),
                pod: pod.clone(),
                uid: uid.clone(),
                addresses: addresses.clone(),
                mac: mac.clone(),
            };
            let port: PortStatus = Client::connect(&socket.socket)?.ask(Request::PortAdd(spec))?;
            let up = port.state == PortState::Up;
            show_ports(&[port], console)?;
            Ok(if up { Outcome::Fine } else { Outcome::BadNews })
        }
        PortCommand::Remove(PortRemoveArgs { socket, interface }) => {
            let request = Request::PortRemove { interface: interface.clone() };
            let _: Value = Client::connect(&socket.socket)?.ask(request)?;
            Ok(Outcome::Fine)
        }
        PortCommand::List(socket) => {
            let ports: Vec<PortStatus> = Client::connect(&socket.socket)?.ask(Request::PortList)?;
            show_ports(&ports, console)
        }
    }
}

fn show_ports(ports: &[PortStatus], console: &mut Console) -> anyhow::Result<Outcome> {
    if console.json() {
        console.document(&ports)?;
    } else {
        print_ports(ports, console, "")?;
    }
    Ok(Outcome::Fine)
}

/// `12:34:56.789 policy_ingress shop/web (10.244.0.1):40000 -> shop/db (10.244.0.2):5432 TCP by shop/db-default-deny`.
fn describe(line: &DropLine, console: &Console) -> String {
    let end = |name: &Option<String>, address: Option<IpAddr>, port: u16| {
        let port = if port == 0 { String::new() } else { format!(" port {port}") };
        match (name, address) {
            (Some(name), Some(address)) => format!("{name} ({address}){port}"),
            (None, Some(address)) => format!("{address}{port}"),
            _ => "?".to_owned(),
        }
    };
    let mut text = format!("{} {}", time_of_day(line.time_ms), console.paint(Tone::Bad, &line.reason));
    if line.source_address.is_some() {
        text.push_str(&format!(
            " {} -> {} {}",
            end(&line.source, line.source_address, line.source_port),
            end(&line.destination, line.destination_address, line.destination_port),
            line.protocol.map(protocol_name).unwrap_or_default()
        ));
    }
    text.push_str(&format!(" from {}", line.interface));
    if !line.policies.is_empty() {
        text.push_str(&format!(" by {}", line.policies.join(", ")));
    }
    if line.lost > 0 {
        text.push_str(&console.paint(Tone::Warn, format!(" ({} more were not recorded)", line.lost)));
    }
    text
}

fn protocol_name(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("protocol {other}"),
    }
}
