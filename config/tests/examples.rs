//! The examples are valid, and say what the code says.

#![allow(clippy::unwrap_used)] // tests

use podgate_config::settings::{Settings, TABLE, load};

const SETTINGS: &str = include_str!("../examples/settings.yaml");

#[test]
fn the_settings_file_as_it_is_changes_nothing() {
    let effective = load(Some(("settings.yaml", SETTINGS.as_bytes())), [], &[]).unwrap();
    assert_eq!(effective.settings, Settings::default());
}

/// Every setting is there, commented out, in the order of the table, at its default.
#[test]
fn the_settings_file_has_every_setting_at_its_default() {
    let shown: Vec<&str> = SETTINGS
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .collect();
    let defaults = Settings::default();
    let expected: Vec<String> = TABLE
        .iter()
        .map(|setting| format!("{}: {}", setting.key, (setting.get)(&defaults)).trim_end().to_owned())
        .collect();
    assert_eq!(shown, expected);
    let uncommented = shown.join("\n");
    assert_eq!(load(Some(("f", uncommented.as_bytes())), [], &[]).unwrap().settings, defaults);
}
