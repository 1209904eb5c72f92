//! An answer that is not Bitrix24's: what it is instead, in words by which a person knows where to look, and whether the call
//! may have been executed.

use crate::system::log::printable;
use crate::values::error::Executed;
use crate::values::json;
use serde::de::IgnoredAny;

/// Most characters of a title, a first line or a header that are repeated.
const LONGEST: usize = 100;
/// A token has 70, a code 32.
const LONGEST_WORD: usize = 24;
/// How far an answer is read for what is repeated of it; it may be of many megabytes.
const MOST_READ: usize = 64 << 10;

/// An answer as it came.
#[derive(Clone, Copy, Default)]
pub struct Answered<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    /// `Content-Encoding` of a body that was not unpacked.
    pub encoding: Option<&'a str>,
    pub location: Option<&'a str>,
    /// Without a byte-order mark.
    pub body: &'a [u8],
}

/// What somebody else than Bitrix24 answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub status: u16,
    /// It goes on behind "answered with".
    pub what: String,
    pub executed: Executed,
    /// It is not the beginning of an answer of Bitrix24 either.
    pub is_anothers: bool,
}

impl Foreign {
    pub fn of(answered: &Answered) -> Foreign {
        let status = answered.status;
        let is_anothers = !answered.body.trim_ascii_start().starts_with(b"{");
        Foreign { status, what: what(answered), executed: executed(status), is_anothers }
    }

    /// A gateway asks to come more slowly.
    pub fn is_over_limit(&self) -> bool {
        self.status == 429
    }

    /// What to do about it, as the end of a sentence; empty where nothing is known.
    pub fn advice(&self) -> &'static str {
        match self.status {
            _ if !self.is_anothers => "",
            404 => "; a portal that is switched off answers so: open it in a browser",
            401 | 403 | 451 => {
                "; something before Bitrix24 refuses this server's requests: ask whoever runs it, or this server's host"
            }
            _ => "",
        }
    }
}

/// Whatever has a status of 4xx comes from before the portal's PHP, or is its refusal. A redirect is too, but for 303, which is
/// what follows a request that was executed (RFC 9110, section 15.4.4).
fn executed(status: u16) -> Executed {
    match status {
        303 => Executed::Unknown,
        300..=499 => Executed::No,
        _ => Executed::Unknown,
    }
}

fn what(answered: &Answered) -> String {
    let Answered { status, encoding, location, body, .. } = *answered;
    if (300..400).contains(&status) {
        return format!("a redirect to {} (status {status}), which is not followed", host_of(location.unwrap_or("")));
    }
    let media_type = answered.content_type.and_then(|text| text.split(';').next()).map(excerpt);
    let kind = match media_type.filter(|text| !text.is_empty()) {
        Some(text) => format!("(status {status}, {text})"),
        None => format!("(status {status}, no content type)"),
    };
    if let Some(encoding) = encoding {
        return format!("a body that is packed as {} and cannot be unpacked {kind}", excerpt(encoding));
    }
    let Ok(text) = std::str::from_utf8(body).map(str::trim) else {
        return match is_page(body) {
            true => page(&String::from_utf8_lossy(&body[..body.len().min(MOST_READ)]), &kind),
            false if body.starts_with(b"{") => format!("JSON that is not UTF-8 {kind}"),
            false => format!("bytes that are no text {kind}"),
        };
    };
    if text.is_empty() {
        return format!("an empty body {kind}");
    }
    if let Some(before) = before_json(text) {
        return format!("text before the JSON, \"{}\" {kind}", excerpt(&without_markup(before)));
    }
    if is_page(body) {
        return page(text, &kind);
    }
    match text.starts_with(['{', '[']) {
        true => json_that_is_none(text, &kind),
        false => format!("text, \"{}\" {kind}", excerpt(text.lines().next().unwrap_or(""))),
    }
}

/// Where a redirect leads, without what may be secret in its address.
fn host_of(location: &str) -> String {
    let host = location.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
    match host.map(|host| host.rsplit('@').next().unwrap_or(host)).filter(|host| !host.is_empty()) {
        Some(host) => shortened(host),
        None => "another address".into(),
    }
}

fn is_page(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"<")
}

/// What stands before an answer of Bitrix24 that is otherwise whole, as PHP's warnings do.
fn before_json(text: &str) -> Option<&str> {
    let begins = ["{\"result\"", "{\"error\""].into_iter().filter_map(|begin| text.find(begin)).min()?;
    let (before, json) = text.split_at(begins);
    (!before.is_empty() && json::fields(json, ["result"]).is_ok()).then_some(before)
}

fn json_that_is_none(text: &str, kind: &str) -> String {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let bytes = text.len();
    match values.next() {
        Some(Ok(_)) if values.byte_offset() < bytes => {
            let behind = &text[values.byte_offset()..];
            format!("text behind the JSON, \"{}\" {kind}", excerpt(&without_markup(behind)))
        }
        Some(Ok(_)) => format!("JSON that is not an object {kind}"),
        Some(Err(error)) if error.is_eof() => format!("JSON that ends too early, after {bytes} bytes {kind}"),
        _ => format!("broken JSON {kind}"),
    }
}

fn page(text: &str, kind: &str) -> String {
    if text.starts_with("<?xml") {
        return format!("XML that nobody asked for {kind}");
    }
    match title(text) {
        Some(title) => format!("a web page, \"{title}\" {kind}"),
        None => format!("a web page without a title {kind}"),
    }
}

fn title(page: &str) -> Option<String> {
    let head = beginning(page).to_ascii_lowercase();
    let begin = head.find("<title")?;
    let begin = begin + head[begin..].find('>')? + 1;
    let end = head[begin..].find("</title").map_or(head.len(), |length| begin + length);
    let title = excerpt(&without_entities(&page[begin..end]));
    (!title.is_empty()).then_some(title)
}

fn beginning(text: &str) -> &str {
    text.char_indices().nth(MOST_READ).map_or(text, |(end, _)| &text[..end])
}

/// What may be a token is left out, for new ones are not known as secrets yet.
fn excerpt(text: &str) -> String {
    let text = beginning(text).split('{').next().unwrap_or("");
    let is_word = |word: &str| word.chars().nth(LONGEST_WORD).is_none();
    let words: Vec<&str> = text.split_whitespace().map(|word| if is_word(word) { word } else { "…" }).collect();
    shortened(&words.join(" "))
}

/// On one line, and not longer than it helps.
fn shortened(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => printable(&format!("{}…", &line[..end])).into_owned(),
        None => printable(&line).trim().to_owned(),
    }
}

/// The text between tags.
fn without_markup(text: &str) -> String {
    let mut plain = String::new();
    for part in beginning(text).split('<') {
        plain.push_str(part.split_once('>').map_or(if plain.is_empty() { part } else { "" }, |(_, behind)| behind));
        plain.push(' ');
    }
    without_entities(&plain)
}

/// The characters that HTML's references stand for, those that titles are written with.
fn without_entities(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('&') {
        plain.push_str(before);
        let reference = behind.split_once(';').and_then(|(name, behind)| Some((character(name)?, behind)));
        let (meant, behind) = reference.unwrap_or(('&', behind));
        plain.push(meant);
        rest = behind;
    }
    plain + rest
}

fn character(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "copy" => '©',
        "ndash" => '–',
        "mdash" => '—',
        "laquo" => '«',
        "raquo" => '»',
        "hellip" => '…',
        name => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn what_is(content_type: &str, body: &str) -> String {
        what(&Answered { status: 200, content_type: Some(content_type), body: body.as_bytes(), ..Answered::default() })
    }

    #[test]
    fn what_is_not_bitrix24s_answer_is_told_apart() {
        for (content_type, body, told) in [
            (
                "text/html",
                "<html><TITLE lang=ru>\n 403\tForbidden </TITLE>",
                "a web page, \"403 Forbidden\" (status 200, text/html)",
            ),
            ("text/html", "<!doctype html>", "a web page without a title (status 200, text/html)"),
            ("text/html", "<title>a", "a web page, \"a\" (status 200, text/html)"),
            ("text/xml", "<?xml version=\"1.0\"?><a/>", "XML that nobody asked for (status 200, text/xml)"),
            ("application/json", " \n", "an empty body (status 200, application/json)"),
            ("", "", "an empty body (status 200, no content type)"),
            (
                "text/html",
                "<br />\n<b>Warning</b>:  Undefined &amp; in <b>a.php</b><br />\n{\"result\":[1]}\n",
                "text before the JSON, \"Warning : Undefined & in a.php\" (status 200, text/html)",
            ),
            ("a/b", "Notice: x\n{\"error\":\"X\"}", "text before the JSON, \"Notice: x\" (status 200, a/b)"),
            ("a/b", "{\"result\":1}<br/><b>Warning</b>", "text behind the JSON, \"Warning\" (status 200, a/b)"),
            ("a/b", "{\"result\":{\"a\":1", "JSON that ends too early, after 16 bytes (status 200, a/b)"),
            ("a/b", "[1]", "JSON that is not an object (status 200, a/b)"),
            ("a/b", "{result:1}", "broken JSON (status 200, a/b)"),
            ("text/plain", "Too Many Requests\nx", "text, \"Too Many Requests\" (status 200, text/plain)"),
        ] {
            assert_eq!(what_is(content_type, body), told);
        }
        let bytes = Answered { status: 500, body: b"\x1f\x8b\xff", ..Answered::default() };
        assert_eq!(what(&bytes), "bytes that are no text (status 500, no content type)");
        let packed = Answered { status: 200, encoding: Some("br"), ..bytes };
        assert_eq!(what(&packed), "a body that is packed as br and cannot be unpacked (status 200, no content type)");
        assert_eq!(
            what(&Answered { body: b"<title>\xcf\xf0</title>", ..bytes }),
            "a web page, \"\u{fffd}\u{fffd}\" (status 500, no content type)"
        );
    }

    #[test]
    fn a_redirect_names_the_host_and_nothing_else_of_its_address() {
        for (location, told) in [
            ("https://user:secret@new.example/rest/?auth=secret", "new.example"),
            ("https://new.example?auth=secret", "new.example"),
            ("/login?auth=secret", "another address"),
            ("", "another address"),
        ] {
            let answered = Answered { status: 301, location: Some(location), ..Answered::default() };
            assert_eq!(what(&answered), format!("a redirect to {told} (status 301), which is not followed"));
        }
    }

    #[test]
    fn only_what_comes_from_before_the_portals_php_is_certainly_not_executed() {
        for (status, expected) in [
            (200, Executed::Unknown),
            (301, Executed::No),
            (303, Executed::Unknown),
            (307, Executed::No),
            (403, Executed::No),
            (429, Executed::No),
            (451, Executed::No),
            (500, Executed::Unknown),
            (504, Executed::Unknown),
        ] {
            assert_eq!(executed(status), expected, "{status}");
        }
    }

    #[test]
    fn what_may_be_a_new_token_is_not_repeated() {
        let token = "0123456789abcdef".repeat(4);
        for body in [
            format!("access_token={token}&refresh_token={token}"),
            format!("x {{\"access_token\":\"{}\"}}", &token[..20]),
            format!("<title>{token}</title>"),
            format!("Warning: {token}\n{{\"result\":1}}"),
            format!("{{\"result\":1}} {token}"),
        ] {
            let told = what_is("a/b", &body);
            assert!(!told.contains("0123456789"), "{told}");
        }
        assert!(!what_is(&format!("a/b; x={token}"), "").contains("0123456789"));
    }

    #[test]
    fn a_title_is_one_printable_line_of_bounded_length() {
        let of = |title: &str| what_is("t/h", &format!("<title>{title}</title>"));
        assert_eq!(of("a\u{202e}b&#27;c&#x1b;d\u{1b}e"), "a web page, \"a b c d e\" (status 200, t/h)");
        assert_eq!(
            of("&laquo;Стол&raquo; &#1071;&amp;lt; &unknown; & x"),
            "a web page, \"«Стол» Я&lt; &unknown; & x\" (status 200, t/h)"
        );
        assert!(of(&"Ы ".repeat(5000)).chars().count() < 150);
        assert!(what_is(&"x".repeat(5000), "<").chars().count() < 200);
    }

    #[test]
    fn an_answer_of_bitrix24_that_was_cut_is_nobody_elses_refusal() {
        let advice = |body: &[u8]| Foreign::of(&Answered { status: 401, body, ..Answered::default() }).advice();
        assert_eq!(advice(b"{\"error\":\"expired_tok"), "");
        assert!(advice(b"<html>").contains("something before Bitrix24"));
        assert!(advice(b"").contains("something before Bitrix24"));
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 100u16..600, text in "[<>&;#x{}\"a-z/Ы\\r\\n ]{0,80}", cut in 0usize..80) {
            let bytes = &text.as_bytes()[..cut.min(text.len())];
            for body in [bytes, text.as_bytes(), format!("<title>{text}").as_bytes()] {
                let told = what(&Answered { status, body, content_type: Some(&text), ..Answered::default() });
                prop_assert!(!told.contains(['\n', '\r']));
            }
        }
    }
}
