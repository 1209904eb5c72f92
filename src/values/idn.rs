//! Names of hosts in letters of any language, as `дом.рф`, in the form that the network knows them by: `xn--d1aqf.xn--p1ai`
//! (RFC 5891; Punycode is RFC 3492). Written here because what the general crates bring are tables of all of Unicode's
//! characters, at every call. A name that is not written as those tables have it is only another name, which is not configured.

use std::borrow::Cow;

const PREFIX: &str = "xn--";

// RFC 3492, section 5.
const BASE: u32 = 36;
const TMIN: u32 = 1;
const TMAX: u32 = 26;
const SKEW: u32 = 38;
const DAMP: u32 = 700;
const INITIAL_BIAS: u32 = 72;
const INITIAL_N: u32 = 128;

/// The host's form in ASCII; `None` where it cannot be a host's.
pub fn to_ascii(host: &str) -> Option<Cow<'_, str>> {
    if host.is_ascii() {
        return Some(host.into());
    }
    let labels: Option<Vec<String>> = composed(&host.to_lowercase()).split('.').map(label).collect();
    Some(labels?.join(".").into())
}

/// Letters that some systems write as a letter and an accent behind it, those of languages whose domains are Cyrillic.
fn composed(text: &str) -> Cow<'_, str> {
    const PAIRS: [(&str, &str); 5] = [
        ("\u{438}\u{306}", "\u{439}"),
        ("\u{435}\u{308}", "\u{451}"),
        ("\u{456}\u{308}", "\u{457}"),
        ("\u{443}\u{306}", "\u{45e}"),
        ("\u{433}\u{301}", "\u{453}"),
    ];
    match text.contains(['\u{301}', '\u{306}', '\u{308}']) {
        true => PAIRS.iter().fold(text.to_owned(), |text, (pair, letter)| text.replace(pair, letter)).into(),
        false => text.into(),
    }
}

fn label(text: &str) -> Option<String> {
    if text.is_ascii() {
        return Some(text.to_owned());
    }
    let is_letter = |c: char| c.is_alphanumeric() || c == '-';
    // The longest that can have a form of 63 characters is shorter.
    if text.len() > 252 || text.starts_with('-') || text.ends_with('-') || !text.chars().all(is_letter) {
        return None;
    }
    Some(format!("{PREFIX}{}", punycode(text)?))
}

/// RFC 3492, section 6.3.
fn punycode(text: &str) -> Option<String> {
    let mut output: String = text.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(output.len()).ok()?;
    if basic > 0 {
        output.push('-');
    }
    let (mut n, mut delta, mut bias, mut done) = (INITIAL_N, 0u32, INITIAL_BIAS, basic);
    let all = u32::try_from(text.chars().count()).ok()?;
    while done < all {
        let next = text.chars().map(u32::from).filter(|c| *c >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(done + 1)?)?;
        n = next;
        for c in text.chars().map(u32::from) {
            if c < n {
                delta = delta.checked_add(1)?;
            }
            if c == n {
                push_number(&mut output, delta, bias);
                bias = adapted(delta, done + 1, done == basic);
                delta = 0;
                done += 1;
            }
        }
        delta = delta.checked_add(1)?;
        n += 1;
    }
    Some(output)
}

fn push_number(output: &mut String, mut number: u32, bias: u32) {
    let digit = |value: u32| char::from_digit(value, BASE).map_or('a', swapped);
    let mut k = BASE;
    loop {
        let threshold = k.saturating_sub(bias).clamp(TMIN, TMAX);
        if number < threshold {
            output.push(digit(number));
            return;
        }
        output.push(digit(threshold + (number - threshold) % (BASE - threshold)));
        number = (number - threshold) / (BASE - threshold);
        k += BASE;
    }
}

/// Punycode counts letters before digits, `char::from_digit` the other way round.
fn swapped(digit: char) -> char {
    let value = digit.to_digit(BASE).unwrap_or(0);
    char::from_u32(if value < 26 { u32::from('a') + value } else { u32::from('0') + value - 26 }).unwrap_or('a')
}

/// RFC 3492, section 6.1.
fn adapted(delta: u32, points: u32, first: bool) -> u32 {
    let mut delta = if first { delta / DAMP } else { delta / 2 };
    delta += delta / points;
    let mut k = 0;
    while delta > ((BASE - TMIN) * TMAX) / 2 {
        delta /= BASE - TMIN;
        k += BASE;
    }
    k + (BASE - TMIN + 1) * delta / (delta + SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_have_the_form_that_registries_give_them() {
        for (name, ascii) in [
            ("дом.рф", "xn--d1aqf.xn--p1ai"),
            ("ДОМ.РФ", "xn--d1aqf.xn--p1ai"),
            ("президент.рф", "xn--d1abbgf6aiiy.xn--p1ai"),
            ("crm.кто.рф", "crm.xn--j1ail.xn--p1ai"),
            ("мвд.бел", "xn--b1aew.xn--90ais"),
            ("ў.бел", "xn--k2a.xn--90ais"),
            ("münchen-ost.de", "xn--mnchen-ost-9db.de"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("中国", "xn--fiqs8s"),
            ("правда", "xn--80aafi6cg"),
            // RFC 3492, section 7.1, (I).
            ("почемужеонинеговорятпорусски", "xn--b1abfaaepdrnnbgefbadotcwatmq2g4l"),
            ("3年b組金八先生", "xn--3b-ww4c5e180e575a65lsy2b"),
            ("acme.bitrix24.ru", "acme.bitrix24.ru"),
        ] {
            assert_eq!(to_ascii(name).as_deref(), Some(ascii), "{name}");
        }
        assert_eq!(to_ascii("и\u{306}.е\u{308}"), to_ascii("й.ё"), "as macOS writes it");
        for bad in
            ["дом рф", "дом/", "дом@рф", "-дом", "д\u{301}", "дом\u{200b}", "дом\u{202e}", "дом。рф", &"я".repeat(300)]
        {
            assert_eq!(to_ascii(bad), None, "{bad:?}");
        }
    }

    /// RFC 3492, section 6.2.
    fn decoded(text: &str) -> Option<String> {
        let (basic, extended) = text.rsplit_once('-').unwrap_or(("", text));
        let mut output: Vec<char> = basic.chars().collect();
        let (mut n, mut i, mut bias) = (INITIAL_N, 0u32, INITIAL_BIAS);
        let mut digits =
            extended.bytes().map(|b| if b.is_ascii_digit() { b - b'0' + 26 } else { b - b'a' }).map(u32::from);
        while let Some(mut digit) = digits.next() {
            let (old, mut w, mut k) = (i, 1, BASE);
            loop {
                i += digit * w;
                let threshold = k.saturating_sub(bias).clamp(TMIN, TMAX);
                if digit < threshold {
                    break;
                }
                w *= BASE - threshold;
                k += BASE;
                digit = digits.next()?;
            }
            let length = output.len() as u32 + 1;
            bias = adapted(i - old, length, old == 0);
            n += i / length;
            i %= length;
            output.insert(i as usize, char::from_u32(n)?);
            i += 1;
        }
        Some(output.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_again(text in "[a-z0-9а-яё-]{0,20}[а-яё一-十]{1,10}") {
            let encoded = punycode(&text).unwrap();
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            prop_assert_eq!(decoded(&encoded), Some(text));
        }

        #[test]
        fn no_name_panics(text in "\\PC{0,80}") {
            if let Some(ascii) = to_ascii(&text) {
                prop_assert!(ascii.is_ascii());
            }
        }
    }
}
