//! Addresses of files in the answers to a webhook client, made to lead through this program: such a client knows no other way
//! in, and the portal's own addresses want an authorization that it does not have.

use crate::values::file_address::FileAddress;
use memchr::memmem;

/// The answer with every address of a file, at one of these origins (`https://acme.bitrix24.ru`), beginning with `base` instead
/// of the portal's `/rest/`. In an answer without one not a byte is copied.
pub fn rewritten(answer: Vec<u8>, origins: &[String], base: &str) -> Vec<u8> {
    if memmem::find(&answer, b"token").is_none() {
        return answer;
    }
    let begins = beginnings(&answer, origins);
    let (mut out, mut copied) = (Vec::new(), 0);
    for (i, &at) in begins.iter().enumerate() {
        if at < copied {
            continue;
        }
        // No address goes on in the next one, nor for ever.
        let next = begins.get(i + 1).copied().unwrap_or(answer.len());
        let found = Address::at(&answer[..next.min(at + LONGEST)], at);
        if let Some(begin) = found.tail_of_file() {
            out.extend_from_slice(&answer[copied..at]);
            let base = if found.is_escaped { base.replace('/', "\\/") } else { base.to_owned() };
            out.extend_from_slice(base.as_bytes());
            copied = begin;
        }
    }
    if copied == 0 {
        return answer;
    }
    out.extend_from_slice(&answer[copied..]);
    out
}

/// Bytes of an address: what web servers and browsers take.
const LONGEST: usize = 8 << 10;

/// Where an origin stands, plain or with the `\/` that PHP writes.
fn beginnings(answer: &[u8], origins: &[String]) -> Vec<usize> {
    let mut found = Vec::new();
    for origin in origins {
        for begin in [format!("{origin}/rest/"), format!("{origin}/rest/").replace('/', "\\/")] {
            found.extend(memmem::find_iter(answer, begin.as_bytes()));
        }
    }
    found.sort_unstable();
    found
}

/// An address in a text, read with its escapes.
struct Address {
    text: String,
    /// Where each character of `text` begins in the answer.
    places: Vec<usize>,
    is_escaped: bool,
}

impl Address {
    fn at(answer: &[u8], begin: usize) -> Address {
        let (mut text, mut places, mut at, mut is_escaped) = (String::new(), Vec::new(), begin, false);
        while let Some(rest) = answer.get(at..).filter(|rest| !rest.is_empty()) {
            let escapes: [(&[u8], char); 4] = [(b"\\/", '/'), (b"\\u0026", '&'), (b"\\u003d", '='), (b"&amp;", '&')];
            let escape = escapes.iter().find(|(escape, _)| rest.starts_with(escape));
            let (character, length) = match escape {
                Some((escape, character)) => (*character, escape.len()),
                None if is_part(rest[0]) => (char::from(rest[0]), 1),
                None => break,
            };
            is_escaped |= rest.starts_with(b"\\/");
            text.push(character);
            places.push(at);
            at += length;
        }
        Address { text, places, is_escaped }
    }

    /// Where its method begins in the answer; `None`: it is not the address of a file.
    fn tail_of_file(&self) -> Option<usize> {
        let (_, _, address) = FileAddress::parse(&self.text).ok()?;
        let before_query = self.text.find('?')?;
        let path = self.text[..before_query].trim_end_matches('/');
        let method = path.len() - address.method.as_str().len();
        self.places.get(method).copied()
    }
}

/// Of an address (RFC 3986), and `|`, which Bitrix24 writes.
fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%|#[]".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(answer: &str) -> String {
        let origins = ["https://acme.bitrix24.ru".to_owned(), "https://new.bitrix24.ru".to_owned()];
        let base = "https://www.example.com/cgi-bin/b24proxy/rest/1/CLIENT/";
        String::from_utf8(rewritten(answer.as_bytes().to_vec(), &origins, base)).unwrap()
    }

    #[test]
    fn an_address_of_a_file_leads_through_this_program_and_keeps_method_and_query() {
        let name = "b24proxy-0123456789ab";
        for (theirs, ours) in [
            ("download.json?token=disk%7Ca%7Cs", "download.json?token=disk%7Ca%7Cs"),
            ("crm.controller.item.getFile/?token=a|b", "crm.controller.item.getFile/?token=a|b"),
            (&*format!("download.json?auth={name}&token=x"), &*format!("download.json?auth={name}&token=x")),
            (&format!("1/{name}/download/?token=x"), "download/?token=x"),
        ] {
            for host in ["acme", "new"] {
                let plain = format!("{{\"a\":\"https://{host}.bitrix24.ru/rest/{theirs}\",\"b\":1}}");
                let expected =
                    format!("{{\"a\":\"https://www.example.com/cgi-bin/b24proxy/rest/1/CLIENT/{ours}\",\"b\":1}}");
                assert_eq!(of(&plain), expected);
                assert_eq!(of(&plain.replace('/', "\\/")), expected.replace('/', "\\/"));
                assert_eq!(of(&plain.replace('&', "\\u0026")), expected.replace('&', "\\u0026"));
                assert_eq!(
                    of(&format!("<u>{}</u>", plain.replace('&', "&amp;"))),
                    format!("<u>{}</u>", expected.replace('&', "&amp;"))
                );
            }
        }
        let two = of("[\"https://acme.bitrix24.ru/rest/a?token=1\",\"https://acme.bitrix24.ru/rest/b?token=2\"]");
        assert_eq!(two.matches("www.example.com").count(), 2, "{two}");
    }

    #[test]
    fn other_addresses_stay() {
        for answer in [
            "{\"a\":\"https://acme.bitrix24.ru/rest/crm.deal.list?start=50&token=1\"}",
            "{\"a\":\"https://acme.bitrix24.ru/bitrix/tools/x.php?token=1\"}",
            "{\"a\":\"https://other.bitrix24.ru/rest/download.json?token=1\"}",
            "{\"a\":\"https://acme.bitrix24.ru.evil.example/rest/download.json?token=1\"}",
            "{\"a\":\"https://acme.bitrix24.ru/rest/batch?token=1\"}",
            "https://acme.bitrix24.ru/rest/ token",
        ] {
            assert_eq!(of(answer), answer);
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(answer in "(https:|/|\\\\/|acme\\.bitrix24\\.ru|rest|download|\\?|token=|auth=|&|x|\"|б){0,20}") {
            let _ = of(&answer);
            let _ = of(&format!("https://acme.bitrix24.ru/rest/{answer}"));
        }
    }
}
