//! `deploy/man/b24proxy.1`, made from the parser.

use super::parser;
use roff::{bold, roman, Roff};
use std::path::Path;

/// Set, the page is written; else it is compared.
const WRITE: &str = "B24PROXY_MAN";

fn page() -> String {
    let mut parser = parser();
    parser.build();
    let mut page = Roff::new();
    page.control("TH", ["b24proxy", "1", "", concat!("b24proxy ", env!("CARGO_PKG_VERSION"))]);
    page.control("SH", ["NAME"]).text([roman("b24proxy - lets 1C:Enterprise call the REST API of Bitrix24")]);
    page.control("SH", ["SYNOPSIS"]).text([bold("b24proxy"), roman(" COMMAND [OPTIONS]")]);
    page.control("SH", ["DESCRIPTION"]);
    prose(&mut page, &parser.get_before_help().expect("it says something").to_string());
    page.control("SH", ["COMMANDS"]);
    for command in parser.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let usage = command.render_usage().to_string();
        for usage in usage.trim_start_matches("Usage:").lines() {
            page.control("SS", [usage.trim()]);
        }
        page.text([roman(format!("{}.", command.get_about().expect("each is described")))]);
        page.control("PP", []);
        prose(&mut page, &command.get_before_help().expect("each is explained").to_string());
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            let help = argument.get_help().expect("each is described").to_string();
            page.control("TP", []).text([bold(argument.to_string())]).text([roman(format!("{help}."))]);
        }
    }
    page.control("SH", ["MORE"]);
    prose(&mut page, &parser.get_after_help().expect("it says something").to_string());
    page.render()
}

/// Paragraphs; lines that are indented stay as they are.
fn prose(page: &mut Roff, text: &str) {
    for paragraph in text.split("\n\n") {
        page.control("PP", []);
        let is_example = paragraph.lines().any(|line| line.starts_with("  "));
        if is_example {
            page.control("nf", []);
        }
        for line in paragraph.lines() {
            page.text([roman(line)]);
        }
        if is_example {
            page.control("fi", []);
        }
    }
}

#[test]
fn the_man_page_is_what_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/man/b24proxy.1");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let shipped = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(shipped == page(), "{} is of another time: {WRITE}=1 cargo test man_page writes it", path.display());
}
