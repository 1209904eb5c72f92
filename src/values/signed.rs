//! What Bitrix24 signs stands in the signature itself, in base64 (RFC 4648): `token=disk|PAYLOAD|BASE64.HMAC`, where BASE64 is
//! of `"download|disk|PAYLOAD|CREDENTIALS"`. So the token or the webhook's code that an address was asked with can be read in
//! it, and is replaced there too; the address is made right again before it is asked.

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::Engine;
use memchr::memmem;

/// Reads what was written with or without padding.
const READING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The characters that a secret makes wherever it begins: those that no other byte has a part in.
struct Needle {
    characters: Vec<u8>,
    /// How many characters of its first group of four stand before them.
    before: usize,
}

fn needles(secret: &[u8]) -> impl Iterator<Item = Needle> + '_ {
    (0..3).map(move |shift| {
        let text = write(&[&vec![0; shift], secret].concat(), false);
        let (first, end) = ((shift * 8).div_ceil(6), (shift + secret.len()) * 8 / 6);
        Needle { characters: text.as_bytes()[first..end].to_vec(), before: first % 4 }
    })
}

fn write(bytes: &[u8], padded: bool) -> String {
    match padded {
        true => base64::engine::general_purpose::STANDARD.encode(bytes),
        false => base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes),
    }
}

/// The text with what `hidden` makes of every base64 in it that holds one of these secrets; `None`: there is none.
pub fn replaced(text: &[u8], secrets: &[&[u8]], hidden: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let needles: Vec<Needle> = secrets.iter().flat_map(|secret| needles(secret)).collect();
    // One after another as they stand: a hostile answer has millions of them.
    let mut places: Vec<_> =
        needles.iter().map(|needle| memmem::find_iter(text, &needle.characters).peekable()).collect();
    let (mut out, mut copied) = (Vec::new(), 0);
    while let Some((at, which)) = (0..places.len()).filter_map(|i| Some((*places[i].peek()?, i))).min() {
        places[which].next();
        if at < copied {
            continue;
        }
        let needle = &needles[which];
        let run = run_around(text, copied, at, needle.before).and_then(|mut run| {
            run.bytes = hidden(&run.bytes)?;
            Some(run)
        });
        match run {
            Some(run) => {
                out.extend_from_slice(&text[copied..run.begin]);
                run.write_onto(&mut out);
                copied = run.end;
            }
            // Base64 with its beginning missing: what would show the secret is left out.
            None => {
                out.extend_from_slice(&text[copied..at]);
                copied = at + needle.characters.len();
            }
        }
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(&text[copied..]);
    Some(out)
}

/// Base64 in a text, from the beginning of a group of four characters to its end.
struct Run {
    begin: usize,
    end: usize,
    /// What it stands for.
    bytes: Vec<u8>,
    is_padded: bool,
    is_percent_encoded: bool,
    has_escaped_slash: bool,
}

impl Run {
    /// As it was written.
    fn write_onto(&self, out: &mut Vec<u8>) {
        // Whole groups but for the last, so that nothing is padded between.
        for bytes in self.bytes.chunks(PIECE / 4 * 3) {
            let text = write(bytes, self.is_padded);
            let text = match (self.is_percent_encoded, self.has_escaped_slash) {
                (true, _) => text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"),
                (false, true) => text.replace('/', "\\/"),
                (false, false) => text,
            };
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Characters that are decoded at once: whole groups of four.
const PIECE: usize = 4096;

/// The forms in which `+`, `/` and `=` may stand beside themselves.
const ESCAPED: [(&[u8], u8); 7] =
    [(b"%2B", b'+'), (b"%2b", b'+'), (b"%2F", b'/'), (b"%2f", b'/'), (b"%3D", b'='), (b"%3d", b'='), (b"\\/", b'/')];

fn is_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// The run in which the character at `at` is the one behind `before` others of its group, none of them before `from`.
fn run_around(text: &[u8], from: usize, at: usize, before: usize) -> Option<Run> {
    let mut begin = at;
    for _ in 0..before {
        let escaped = ESCAPED.iter().find(|(form, of)| *of != b'=' && text[from..begin].ends_with(form));
        begin -= match escaped {
            Some((form, _)) => form.len(),
            None => text[from..begin].last().filter(|byte| is_character(**byte)).map(|_| 1)?,
        };
    }
    let mut run = Run {
        begin,
        end: begin,
        bytes: Vec::new(),
        is_padded: false,
        is_percent_encoded: false,
        has_escaped_slash: false,
    };
    let (mut last, mut piece) = (begin, Vec::with_capacity(PIECE));
    while let Some(&byte) = text.get(run.end) {
        let escaped = ESCAPED.iter().find(|(form, _)| text[run.end..].starts_with(form));
        let (character, length) = escaped.map_or((byte, 1), |(form, of)| (*of, form.len()));
        match character {
            b'=' => run.is_padded = true,
            _ if run.is_padded || !is_character(character) => break,
            _ => {
                if piece.len() == PIECE {
                    READING.decode_vec(&piece, &mut run.bytes).ok()?;
                    piece.clear();
                }
                piece.push(character);
                last = run.end;
            }
        }
        run.is_percent_encoded |= length == 3;
        run.has_escaped_slash |= length == 2;
        run.end += length;
    }
    // One character of four says nothing.
    if piece.len() % 4 == 1 {
        piece.pop();
        (run.end, run.is_padded) = (last, false);
    }
    // Whole groups look alike with padding and without.
    run.is_padded |= piece.len().is_multiple_of(4);
    READING.decode_vec(&piece, &mut run.bytes).ok()?;
    Some(run)
}

/// The value of a `token`, percent-encoded, with `by` in the place of `text` in its base64; `None`: that is nowhere there.
pub fn with_text_replaced(token: &str, text: &str, by: &str) -> Option<String> {
    let restored = replaced(token.as_bytes(), &[text.as_bytes()], |bytes| {
        let at = memmem::find(bytes, text.as_bytes())?;
        Some([&bytes[..at], by.as_bytes(), &bytes[at + text.len()..]].concat())
    });
    restored.and_then(|token| String::from_utf8(token).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::file_address::put_back;
    use crate::values::mask::{name_of, Mask};
    use crate::values::percent;
    use crate::values::secret::Secret;
    use proptest::prelude::*;
    use std::borrow::Cow;

    /// An address as Bitrix24 answers it, in JSON: signed with these credentials.
    fn address(payload: &str, credentials: &str) -> String {
        let signed = write(format!("\"download|disk|{payload}|{credentials}\"").as_bytes(), true);
        let token = format!("disk|{payload}|{signed}.aG1hYy9obWFj");
        let token = serde_urlencoded::to_string([("token", token)]).unwrap();
        format!("{{\"DOWNLOAD_URL\":\"https:\\/\\/acme.bitrix24.ru\\/rest\\/download.json?{token}\"}}")
    }

    /// What can be read in the base64 of an address.
    fn read(address: &str) -> String {
        let decoded = percent_decoded(address);
        let parts = decoded.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)));
        parts
            .filter_map(|part| READING.decode(part).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    fn percent_decoded(text: &str) -> String {
        String::from_utf8(percent::decoded(text.as_bytes())).unwrap()
    }

    fn token_of(address: &str) -> &str {
        address.split_once("token=").unwrap().1.trim_end_matches("\"}")
    }

    proptest! {
        #[test]
        fn a_secret_that_was_signed_cannot_be_read_and_can_be_put_back(
            secret in "[a-z0-9]{8,72}", user in "([0-9]{1,4}\\|)?", payload in "[A-Za-z0-9+/]{0,40}={0,2}", more in "(\\|[a-z]{0,5})?"
        ) {
            let secret = Secret::new(secret);
            let plain = address(&payload, &format!("{user}{}{more}", secret.expose()));
            prop_assert!(read(&plain).contains(secret.expose()));
            let masked = Mask::of([&secret]).text(&plain).into_owned();
            prop_assert!(!read(&masked).contains(secret.expose()), "{masked}");
            prop_assert!(read(&masked).contains(&name_of(&secret)), "{masked}");
            prop_assert!(serde_json::from_str::<serde_json::Value>(&masked).is_ok());
            let token = put_back(token_of(&masked), Some(&secret)).unwrap();
            prop_assert_eq!(percent_decoded(&token), percent_decoded(token_of(&plain)));
            prop_assert!(put_back(token_of(&masked), Some(&Secret::new("another-secret"))).is_none());
            prop_assert!(put_back(token_of(&masked), None).is_none());
        }

        #[test]
        fn no_text_panics(text in "(token|=|%3D|%2B|%2f|\\\\/|YjI0cHJveHkt|IyNHByb3h5L|iMjRwcm94eS|YWJjZGVmZ2g|[A-Za-z0-9+/|.\"]){0,20}") {
            let _ = Mask::of([&Secret::new("abcdefgh")]).text(&text);
            let _ = put_back(&text, Some(&Secret::new("abcdefgh")));
        }
    }

    /// However often, and however badly, a portal repeats a secret: the time grows with the answer, not with its square.
    #[test]
    fn a_secret_repeated_everywhere_is_hidden_in_time() {
        let secret = Secret::new("4f9a0166006e2b8700005a4e");
        let needles: Vec<Vec<u8>> = needles(secret.expose().as_bytes()).map(|needle| needle.characters).collect();
        for (before, needle) in [("", &needles[0]), (".", &needles[1]), (".", &needles[2]), (".x", &needles[2])] {
            for end in ["", "x", "xx", "=", "x="] {
                let text = format!("token={before}{}{end}", String::from_utf8(needle.repeat(50_000)).unwrap());
                let started = std::time::Instant::now();
                let masked = Mask::of([&secret]).text(&text).into_owned();
                assert!(started.elapsed().as_secs() < 10, "{before} {end}");
                assert!(!masked.as_bytes().windows(needle.len()).any(|window| window == needle), "{before} {end}");
            }
        }
    }

    #[test]
    fn what_holds_no_secret_stays() {
        let secret = Secret::new("4f9a0166006e2b8700005a4e");
        let plain = address("aWQ9MQ==", "another");
        assert!(matches!(Mask::of([&secret]).text(&plain), Cow::Borrowed(_)));
        assert!(matches!(put_back(token_of(&plain), Some(&secret)), Some(Cow::Borrowed(_))));
    }
}
