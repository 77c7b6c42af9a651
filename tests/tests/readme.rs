//! The README's tables are those of the code.

#![allow(clippy::unwrap_used)]

use std::path::Path;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

#[test]
fn the_settings_are_the_codes() {
    let table = podgate_config::settings::markdown();
    assert!(readme().contains(table.trim()), "put this into README.md:\n{table}");
}

#[test]
fn the_drop_reasons_are_the_codes() {
    let table = podgate_dataplane::drop_reason::markdown_table();
    assert!(readme().contains(table.trim()), "put this into README.md:\n{table}");
}

#[test]
fn every_drop_reason_has_code_that_gives_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane/src");
    let mut code = String::new();
    let mut folders = vec![source];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("drop_reason.rs") {
                code.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    for reason in podgate_dataplane::drop_reason::DropReason::ALL {
        assert!(code.contains(&format!("DropReason::{reason:?}")), "nothing gives {reason:?}");
    }
}
