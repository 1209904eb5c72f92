//! Secrets in what others say: replaced by a name that tells which secret it was and nothing more.
//!
//! A portal repeats what it was sent: tokens in addresses of files, in errors. Whatever Bitrix24 or the OAuth server answers
//! passes here before anybody sees it. A secret is found plain, percent-encoded (RFC 3986, section 2.1), escaped as in JSON
//! (RFC 8259, section 7), percent-encoded in JSON, and in the base64 of a signed address ([`signed`]); in an answer without one not a byte is copied or changed.

use super::secret::{hex, sha256, Secret};
use super::signed;
use memchr::{memchr2, memmem};
use std::borrow::Cow;

pub const PREFIX: &str = "b24proxy-";
/// Hex digits of a secret's SHA-256 behind the prefix.
const DIGITS: usize = 12;
/// A shorter text is no secret that anybody keeps, and would be found everywhere.
const SHORTEST: usize = 8;

/// The name of a secret: `b24proxy-` and the first 12 hex digits of its SHA-256.
pub fn name_of(secret: &Secret) -> String {
    name_of_bytes(secret.expose().as_bytes())
}

fn name_of_bytes(secret: &[u8]) -> String {
    format!("{PREFIX}{}", &hex(&sha256(secret))[..DIGITS])
}

/// Whether a text has the form of such a name.
pub fn is_name(text: &str) -> bool {
    let digits = text.strip_prefix(PREFIX).unwrap_or("");
    digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The secrets to look for.
#[derive(Clone, Default)]
pub struct Mask {
    /// The longest first.
    secrets: Vec<Secret>,
}

impl Mask {
    pub fn of<'s>(secrets: impl IntoIterator<Item = &'s Secret>) -> Mask {
        let mut mask = Mask::default();
        secrets.into_iter().for_each(|secret| mask.add(secret));
        mask
    }

    pub fn add(&mut self, secret: &Secret) {
        if secret.expose().len() >= SHORTEST && !self.secrets.contains(secret) {
            self.secrets.push(secret.clone());
            self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        }
    }

    /// The bytes with every secret replaced; the same ones where there is none.
    pub fn bytes(&self, text: Vec<u8>) -> Vec<u8> {
        match self.replaced(&text) {
            Some(replaced) => replaced,
            None => text,
        }
    }

    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.replaced(text.as_bytes()) {
            Some(replaced) => String::from_utf8_lossy(&replaced).into_owned().into(),
            None => text.into(),
        }
    }

    fn needles(&self) -> impl Iterator<Item = &[u8]> {
        self.secrets.iter().map(|secret| secret.expose().as_bytes())
    }

    /// `None`: there is nothing to replace.
    fn replaced(&self, text: &[u8]) -> Option<Vec<u8>> {
        // Only a signed address holds a secret in base64, and it has a `token`.
        let unsigned = memmem::find(text, b"token").and_then(|_| {
            let needles: Vec<&[u8]> = self.needles().collect();
            signed::replaced(text, &needles, |signed| self.replaced_in(signed))
        });
        match unsigned {
            Some(unsigned) => Some(self.replaced_in(&unsigned).unwrap_or(unsigned)),
            None => self.replaced_in(text),
        }
    }

    fn replaced_in(&self, text: &[u8]) -> Option<Vec<u8>> {
        if self.secrets.is_empty() || !(self.is_plain_in(text) || self.may_be_escaped_in(text)) {
            return None;
        }
        let mut starts = [false; 256];
        for byte in self.needles().map(|needle| needle[0]).chain(*b"%\\+") {
            starts[usize::from(byte)] = true;
        }
        let (mut out, mut copied, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            let found = starts[usize::from(text[at])].then(|| self.found_at(text, at)).flatten();
            match found {
                Some((needle, end)) => {
                    out.extend_from_slice(&text[copied..at]);
                    out.extend_from_slice(name_of_bytes(needle).as_bytes());
                    (copied, at) = (end, end);
                }
                None => at += 1,
            }
        }
        if copied == 0 {
            return None;
        }
        out.extend_from_slice(&text[copied..]);
        Some(out)
    }

    fn is_plain_in(&self, text: &[u8]) -> bool {
        self.needles().any(|needle| memmem::find(text, needle).is_some())
    }

    /// Whether an escape in the text stands for a character of a secret. In real answers hardly one does: those stand for
    /// letters beyond ASCII, quotes and slashes.
    fn may_be_escaped_in(&self, text: &[u8]) -> bool {
        let mut inside = [false; 256];
        self.needles().flatten().for_each(|byte| inside[usize::from(*byte)] = true);
        let is_inside = |byte: u8| inside[usize::from(byte)] || byte == b'%';
        if inside[usize::from(b' ')] && memchr::memchr(b'+', text).is_some() {
            return true;
        }
        let mut at = 0;
        while let Some(next) = memchr2(b'\\', b'%', &text[at..]) {
            at += next;
            let escaped = match text[at] {
                b'\\' => json_unit(text, at),
                _ => percent_unit(text, at),
            };
            match escaped {
                Some((unit, _)) if unit.bytes().iter().any(|byte| is_inside(*byte)) => return true,
                Some((_, end)) => at = end,
                None => at += 1,
            }
        }
        false
    }

    /// The secret that begins here, in whatever form, and where it ends.
    fn found_at(&self, text: &[u8], at: usize) -> Option<(&[u8], usize)> {
        self.needles().find_map(|needle| Some((needle, end_of(needle, text, at)?)))
    }
}

/// Where a secret that begins at `at` ends; `None`: it does not stand there.
fn end_of(needle: &[u8], text: &[u8], mut at: usize) -> Option<usize> {
    let mut rest = needle;
    while let Some(&wanted) = rest.first() {
        let (unit, end) = match json_unit(text, at)? {
            // Itself, or the first of an encoded byte.
            (Unit::Byte(b'%'), end) => match percent_unit(text, at) {
                Some((unit, end)) if unit.byte() == Some(wanted) => (unit, end),
                _ => (Unit::Byte(b'%'), end),
            },
            (Unit::Byte(b'+'), end) if wanted == b' ' => (Unit::Byte(b' '), end),
            unit => unit,
        };
        rest = rest.strip_prefix(unit.bytes())?;
        at = end;
    }
    Some(at)
}

/// What one character of a text stands for: a byte, or what an escape stands for in UTF-8.
enum Unit {
    Byte(u8),
    Character([u8; 4], usize),
}

impl Unit {
    fn of(character: char) -> Unit {
        let mut bytes = [0; 4];
        let length = character.encode_utf8(&mut bytes).len();
        Unit::Character(bytes, length)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Unit::Byte(byte) => std::slice::from_ref(byte),
            Unit::Character(bytes, length) => &bytes[..*length],
        }
    }

    /// As one byte, where it is one.
    fn byte(&self) -> Option<u8> {
        match self.bytes() {
            [byte] => Some(*byte),
            _ => None,
        }
    }
}

/// A byte, or an escape of JSON, and where it ends. `None` at the end of the text.
fn json_unit(text: &[u8], at: usize) -> Option<(Unit, usize)> {
    let byte = *text.get(at)?;
    let itself = Some((Unit::Byte(byte), at + 1));
    if byte != b'\\' {
        return itself;
    }
    let escaped = match text.get(at + 1) {
        Some(b'u') => match utf_16(text, at) {
            // Characters beyond U+FFFF are two escapes.
            Some(high @ 0xd800..=0xdbff) => {
                let low = utf_16(text, at + 6).filter(|low| (0xdc00..=0xdfff).contains(low));
                let code = low.map(|low| 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
                code.and_then(char::from_u32).map(|character| (Unit::of(character), at + 12))
            }
            code => code.and_then(char::from_u32).map(|character| (one_byte_or(character), at + 6)),
        },
        Some(simple @ (b'/' | b'"' | b'\\')) => Some((Unit::Byte(*simple), at + 2)),
        Some(letter @ (b'b' | b'f' | b'n' | b'r' | b't')) => {
            let control = match letter {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                _ => b'\t',
            };
            Some((Unit::Byte(control), at + 2))
        }
        _ => None,
    };
    escaped.or(itself)
}

fn one_byte_or(character: char) -> Unit {
    match u8::try_from(character) {
        Ok(byte) if byte.is_ascii() => Unit::Byte(byte),
        _ => Unit::of(character),
    }
}

/// The code of an escape such as `\u0061`.
fn utf_16(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    is_hex.then(|| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).flatten()
}

/// A percent-encoded byte, each of its characters perhaps escaped as in JSON.
fn percent_unit(text: &[u8], at: usize) -> Option<(Unit, usize)> {
    let (percent, at) = json_unit(text, at)?;
    let (high, at) = json_unit(text, at)?;
    let (low, end) = json_unit(text, at)?;
    let digit = |unit: Unit| char::from(unit.byte()?).to_digit(16);
    let value = digit(high)? * 16 + digit(low)?;
    (percent.byte() == Some(b'%')).then(|| Some((Unit::Byte(u8::try_from(value).ok()?), end)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: &str = "4f9a0166006e2b8700005a4e";
    /// Such as a password in an address may be.
    const PASSWORD: &str = "pa/ss \"wörd%+";

    fn mask() -> Mask {
        Mask::of([&Secret::new(TOKEN), &Secret::new(PASSWORD), &Secret::new("short")])
    }

    fn masked(text: &str) -> String {
        String::from_utf8(mask().bytes(text.as_bytes().to_vec())).unwrap()
    }

    fn percent(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02X}")).collect()
    }

    fn escaped(text: &str) -> String {
        text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect()
    }

    #[test]
    fn a_secret_is_replaced_in_whatever_form_it_comes() {
        let (name, other) = (name_of(&Secret::new(TOKEN)), name_of(&Secret::new(PASSWORD)));
        assert!(is_name(&name) && !is_name(TOKEN) && !is_name("b24proxy-12345678901g"));
        for (text, expected) in [
            (TOKEN.to_owned(), name.clone()),
            (format!("{{\"a\":\"x{TOKEN}y\",\"{TOKEN}\":1}}"), format!("{{\"a\":\"x{name}y\",\"{name}\":1}}")),
            (format!("https:\\/\\/h\\/?auth={TOKEN}&token=1"), format!("https:\\/\\/h\\/?auth={name}&token=1")),
            (percent(TOKEN), name.clone()),
            (percent(TOKEN).to_ascii_lowercase(), name.clone()),
            (TOKEN.replace('4', "%34"), name.clone()),
            (escaped(TOKEN), name.clone()),
            (escaped(TOKEN).to_ascii_uppercase().replace("\\U", "\\u"), name.clone()),
            (escaped(&percent(TOKEN)), name.clone()),
            (format!("\\n{TOKEN}\\"), format!("\\n{name}\\")),
            (format!("{TOKEN}{TOKEN}"), format!("{name}{name}")),
            (PASSWORD.to_owned(), other.clone()),
            (percent(PASSWORD), other.clone()),
            (escaped(PASSWORD), other.clone()),
            ("pa%2Fss+%22w%c3%b6rd%25%2b".to_owned(), other.clone()),
            (serde_json::to_string(PASSWORD).unwrap().replace('/', "\\/"), format!("\"{other}\"")),
        ] {
            assert_eq!(masked(&text), expected, "{text}");
        }
    }

    #[test]
    fn what_holds_no_secret_stays_the_very_same_bytes() {
        for text in
            ["", "short", "{\"a\":\"\\u0430\\u0431 \\/ %20 %zz \\u00 \\", &TOKEN[1..], "%34%66%39a", "\\u0034f9a"]
        {
            let bytes = text.as_bytes().to_vec();
            let place = bytes.as_ptr();
            let masked = mask().bytes(bytes);
            assert_eq!((masked.as_slice(), masked.as_ptr()), (text.as_bytes(), place));
        }
        assert!(matches!(Mask::default().text(TOKEN), Cow::Borrowed(_)));
    }

    /// Each character in one of its forms.
    fn encoded(text: &str, how: &[u8]) -> String {
        let mut ways = how.iter().cycle();
        let one = |c: char| match ways.next().unwrap_or(&0) % 5 {
            0 => c.to_string(),
            1 => percent(&c.to_string()),
            2 => percent(&c.to_string()).to_ascii_lowercase(),
            3 => escaped(&c.to_string()),
            _ => escaped(&percent(&c.to_string())),
        };
        text.chars().map(one).collect()
    }

    proptest! {
        #[test]
        fn no_mixture_of_forms_hides_a_secret(how in proptest::collection::vec(any::<u8>(), 1..30), before in "[a-z\\\\%u0-9\"/]{0,12}") {
            let text = format!("{before}{}", encoded(TOKEN, &how));
            prop_assert!(masked(&text).contains(&name_of(&Secret::new(TOKEN))), "{text}");
        }

        #[test]
        fn no_text_panics_and_none_grows_without_a_secret(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let masked = mask().bytes(text.clone());
            prop_assert!(masked == text || String::from_utf8_lossy(&masked).contains(PREFIX));
        }

        #[test]
        fn json_stays_json(inside in "\\PC{0,20}") {
            // Before a digit of the secret that would be the beginning of an escape.
            let is_half_an_escape = inside.ends_with('%') || inside.chars().rev().nth(1) == Some('%');
            prop_assume!(!is_half_an_escape);
            let text = serde_json::json!({ inside.clone(): format!("{inside}{TOKEN}{inside}") }).to_string();
            let read: serde_json::Value = serde_json::from_str(&masked(&text)).unwrap();
            prop_assert_eq!(&read[&inside], &format!("{inside}{}{inside}", name_of(&Secret::new(TOKEN))));
        }
    }
}
