//! Percent-encoding (RFC 3986, section 2.1).

/// What is not encoded beside letters and digits (RFC 3986, section 2.3).
pub const UNRESERVED: &[u8] = b"-._~";

/// The bytes with every `%xx` decoded; a `%` without two digits stays as it is.
pub fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = (byte == b'%').then(|| tail.get(..2).and_then(|d| std::str::from_utf8(d).ok())).flatten();
        rest = tail;
        match escape.and_then(crate::values::secret::from_hex) {
            Some(value) => {
                out.extend(value);
                rest = &tail[2..];
            }
            None => out.push(byte),
        }
    }
    out
}

/// The text with every byte encoded that is neither a letter, a digit nor one of `safe`, which are ASCII.
pub fn encoded(text: &[u8], safe: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    encode_onto(&mut out, text, safe);
    out
}

/// Writes the same behind what is there.
pub fn encode_onto(out: &mut String, text: &[u8], safe: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_alphanumeric() || safe.contains(&byte) {
            out.push(char::from(byte));
        } else {
            let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_an_escape_stays_as_it_is() {
        assert_eq!(decoded(b"a%20b%zz%2"), b"a b%zz%2");
        assert_eq!(encoded("a/Ж~".as_bytes(), b"~"), "a%2F%D0%96~");
    }

    proptest! {
        #[test]
        fn encoding_goes_there_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(decoded(encoded(&bytes, b"-._~").as_bytes()), bytes);
        }
    }
}
