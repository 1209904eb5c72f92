//! What must not be handed out, asked for where people put it.

use super::line::Line;
use super::web::Site;
use crate::store::file::Folder;
use std::path::{Path, PathBuf};

/// At which a configuration or token file is looked for: more would look like an attack to the host's firewall.
const MOST_PATHS: usize = 100;
const CHECK: &str = "privacy";

pub fn check(site: &Site) -> Vec<Line> {
    let tokens =
        site.config.and_then(|config| Some(Folder::new(&config.token_folder).tokens(&config.portals.first()?.name)));
    let token_file = tokens.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let mut files: Vec<PathBuf> = Vec::new();
    if let Some(config) = site.config {
        files.extend(with_copies(&config.path));
        files.extend(tokens.clone());
        files.extend(config.log.file.clone());
    }
    let files: Vec<PathBuf> = files.into_iter().map(|file| file.canonicalize().unwrap_or(file)).collect();
    let mut lines = Vec::new();
    let mut answered = 0;
    for path in tempting(&site.address.path, token_file, &files) {
        let url = site.address.at(&path);
        let Ok(seen) = site.get(&url) else { continue };
        answered += 1;
        if seen.status == 200 && holds_secrets(&seen.body) {
            lines.push(Line::fail(
                CHECK,
                format!("anybody can download {url}"),
                "move it above the document root at once, then renew what it holds: client_secret in Bitrix24, client \
                 tokens (b24proxy token), the installation (b24proxy install-url)",
            ));
        }
    }
    if lines.is_empty() {
        let text = format!("none of {answered} likely addresses hands out proxy.toml, a token file or the log");
        lines.push(Line::ok(CHECK, text));
    }
    lines
}

/// A file, and what editors and people have left beside it: `proxy.toml.old`.
fn with_copies(file: &Path) -> Vec<PathBuf> {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    let entries = file.parent().and_then(|folder| folder.read_dir().ok()).into_iter().flatten().flatten();
    let copies =
        entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(name)).map(|entry| entry.path());
    let mut files: Vec<PathBuf> = copies.take(10).collect();
    files.push(file.to_owned());
    files
}

/// Whether a body is a configuration, a token file or this program's log.
fn holds_secrets(body: &[u8]) -> bool {
    let has = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
    let is_page = body.trim_ascii_start().starts_with(b"<");
    let secrets = [&b"client_secret"[..], b"refresh_token", b"auth_token", b"token_sha256"];
    let is_log = has(br#""level":""#) && has(br#""time":""#);
    !is_page && (is_log || secrets.into_iter().any(has))
}

/// Paths at which configuration and tokens would lie: beside the program, in each folder above, and where the files
/// really are. Which folder is handed out is not known from here, so that each end of a real path is one to try:
/// `/var/www/html/b24/proxy.toml`, …, `/b24/proxy.toml`, `/proxy.toml`.
fn tempting(url_path: &str, token_file: Option<&str>, files: &[PathBuf]) -> Vec<String> {
    let endings = ["", "~", ".bak", ".old", ".save", ".txt", ".orig"];
    let mut names: Vec<String> = endings.iter().map(|ending| format!("proxy.toml{ending}")).collect();
    names.push("b24proxy/proxy.toml".into());
    if let Some(token_file) = token_file {
        names.push(format!("tokens/{token_file}"));
        names.push(format!("b24proxy/tokens/{token_file}"));
    }
    for file in files.iter().filter_map(|file| file.to_str()) {
        names.extend(file.rmatch_indices('/').map(|(at, _)| file[at + 1..].to_owned()));
    }
    let mut paths: Vec<String> = Vec::new();
    let above = url_path.match_indices('/').map(|(at, _)| &url_path[..at]);
    for folder in above.chain([""]) {
        paths.extend(names.iter().map(|name| format!("{folder}/{name}")));
    }
    // Below the program's own address it is the program that answers.
    paths.retain(|path| url_path.is_empty() || !path.starts_with(&format!("{url_path}/")));
    paths.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    paths.dedup();
    paths.truncate(MOST_PATHS);
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_for_beside_the_program_above_it_and_at_each_end_of_where_they_are() {
        let files = [PathBuf::from("/var/www/html/b24/private/proxy.toml"), "/home/u/tokens/a.json".into()];
        let paths = tempting("/cgi-bin/b24proxy", Some("a.json"), &files);
        for path in [
            "/cgi-bin/proxy.toml",
            "/cgi-bin/proxy.toml.save",
            "/b24proxy/proxy.toml",
            "/cgi-bin/tokens/a.json",
            "/proxy.toml",
            "/private/proxy.toml",
            "/b24/private/proxy.toml",
            "/html/b24/private/proxy.toml",
            "/var/www/html/b24/private/proxy.toml",
            "/u/tokens/a.json",
        ] {
            assert!(paths.iter().any(|p| p == path), "{path} in {paths:?}");
        }
        assert!(!paths.iter().any(|path| path.starts_with("/cgi-bin/b24proxy/")), "{paths:?}");
        let deep = format!("{}/proxy.toml", "/folder".repeat(200));
        assert_eq!(tempting("/cgi-bin/b24proxy", None, &[deep.into()]).len(), MOST_PATHS);
    }

    #[test]
    fn a_page_that_speaks_of_secrets_is_not_a_file_with_secrets() {
        assert!(holds_secrets(b"[bitrix24]\nclient_secret = \"x\""));
        assert!(holds_secrets(b"{\"refresh_token\":\"x\"}"));
        assert!(!holds_secrets(b"<!DOCTYPE html><p>client_secret"));
        assert!(!holds_secrets(b"{}"));
        assert!(holds_secrets(
            br#"{"client":"1c","level":"info","message":"answered","ms":5,"time":"2026-01-01T00:00:00Z"}"#
        ));
    }
}
