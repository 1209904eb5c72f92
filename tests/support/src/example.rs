//! `proxy.toml.example`, and what administrators make of it.

pub fn example() -> String {
    std::fs::read_to_string(crate::repository().join("proxy.toml.example")).expect("the example")
}

/// The example with a comment's "#" taken away from the lines that hold a key which `wanted` wants.
pub fn uncommented(wanted: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with("[[") && wanted("[[") => format!("{rest}\n"),
        Some(rest) if rest.split_once('=').is_some_and(|(key, _)| is_key(key.trim()) && wanted(key.trim())) => {
            format!("{rest}\n")
        }
        _ => format!("{line}\n"),
    };
    let lines: Vec<String> = example().lines().map(line).collect();
    // Of two lines for one key, such as the addresses of two kinds of database, an administrator takes one.
    let key = |line: &str| line.split_once('=').map(|(key, _)| key.trim().to_owned()).filter(|key| is_key(key));
    let is_second = |at: usize| at > 0 && key(&lines[at]).is_some_and(|own| key(&lines[at - 1]) == Some(own));
    lines.iter().enumerate().filter(|(at, _)| !is_second(*at)).map(|(_, line)| line.as_str()).collect()
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// As an administrator fills the example in.
pub fn filled_in(example: &str) -> String {
    let filled = example
        .replace("local.6667fc928a50a9.70414732", "local.0123456789abcd.01234567")
        .replace("https://www.example.com/", "https://www.acme.test/")
        .replace("….bitrix24.ru", "acme.bitrix24.ru")
        .replace("b24proxy:…@", "b24proxy:password@")
        .replace("rest/1/…/", "rest/1/abcdef/")
        .replace("auth_token   = \"…\"", "auth_token   = \"one-token-of-the-example\"");
    filled.replace("\"…\"", "\"another-value-of-the-example\"")
}
