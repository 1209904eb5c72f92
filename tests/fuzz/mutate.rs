//! Bytes made wrong, and JSON that means nothing.

use support::Random;

/// Nothing that is sent becomes longer.
const LONGEST: usize = 2 << 20;

/// What readers of JSON, forms, addresses, headers and PHP's brackets stumble over.
const MORSELS: &[&[u8]] = &[
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\"\\ud800\"",
    b"1e999",
    b"-0",
    b",",
    b":",
    b"&",
    b"=",
    b"?",
    b"#",
    b"%",
    b"%00",
    b"%0d%0aSet-Cookie:%20x",
    b"%ff",
    b"+",
    b";",
    b"[",
    b"]",
    b"[]",
    b"[a][b][c]",
    b"\0",
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n--X--\r\n",
    b"--X\r\n",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"../",
    b"//",
    b"auth=x",
    b"\"auth\":\"x\",",
    b"cmd[x]=profile",
    b"\"cmd\":{\"x\":\"profile\"},",
    b"\"method\":\"profile\",",
    b"\"all\":true,",
    b"\"version\":3,",
    b"$result[a]",
    b"<script>alert(1)</script>",
    b"\xe2\x80\xae",
    b"\xd0\xa1\xd1\x82\xd0\xbe\xd0\xbb",
];

/// Numbers at the edges of what holds them.
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "-1",
    "1.5",
    "1e308",
    "1e999",
    "-1e999",
    "2147483648",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999999999",
    "00",
    "0x10",
];

/// Changes the bytes in one way. `others`: what may be spliced in.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut Random, others: &[&[u8]]) {
    let at = random.index(bytes.len() + 1);
    let some = range(bytes, random);
    match random.below(21) {
        0..=2 => {
            for _ in 0..=random.below(4) {
                if !bytes.is_empty() {
                    let at = random.index(bytes.len());
                    bytes[at] ^= 1 << random.below(8);
                }
            }
        }
        3 => {
            let new = (0..=random.below(8)).map(|_| random.any() as u8).collect::<Vec<_>>();
            bytes.splice(at..at, new);
        }
        4 | 5 => drop(bytes.drain(some)),
        6 => {
            let copy = bytes[some].to_vec();
            bytes.splice(at..at, copy);
        }
        7 | 8 => bytes.truncate(at),
        9 => {
            let other = others.get(random.index(others.len().max(1))).copied().unwrap_or(b"");
            bytes.truncate(at);
            bytes.extend(&other[random.index(other.len() + 1)..]);
        }
        10..=12 => drop(bytes.splice(at..at, random.pick(MORSELS).to_vec())),
        13..=15 => replace_a_number(bytes, random),
        16 => nest(bytes, random),
        17 => {
            *bytes = [random.pick(&[&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff", b"\0"]), bytes.as_slice()].concat()
        }
        18 => *bytes = in_another_encoding(bytes, random),
        19 => {
            let copy = bytes.clone();
            bytes.extend(copy);
        }
        _ => {
            // Every name twice, in another case, or escaped.
            let part = String::from_utf8_lossy(&bytes[some.clone()]).into_owned();
            let new = match random.below(3) {
                0 => part.to_uppercase().into_bytes(),
                1 => part.bytes().flat_map(|byte| format!("%{byte:02x}").into_bytes()).collect(),
                _ => part.encode_utf16().flat_map(|unit| format!("\\u{unit:04x}").into_bytes()).collect(),
            };
            bytes.splice(some, new);
        }
    }
    bytes.truncate(LONGEST);
}

fn range(bytes: &[u8], random: &mut Random) -> std::ops::Range<usize> {
    let start = random.index(bytes.len() + 1);
    let longest = bytes.len() - start;
    let length = random.index(longest + 1).min(if random.percent(80) { 20 } else { longest });
    start..start + length
}

/// Puts a number at the edge of what holds it in the place of another.
pub fn replace_a_number(bytes: &mut Vec<u8>, random: &mut Random) {
    let begins = |at: usize| bytes[at].is_ascii_digit() && (at == 0 || !bytes[at - 1].is_ascii_alphanumeric());
    let starts: Vec<usize> = (0..bytes.len()).filter(|&at| begins(at)).collect();
    // Values rather than digits in a text.
    let values: Vec<usize> = starts.iter().copied().filter(|&at| at > 0 && b":[,=".contains(&bytes[at - 1])).collect();
    let starts = if values.is_empty() { starts } else { values };
    if starts.is_empty() {
        return;
    }
    let start = *random.pick(&starts);
    let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    bytes.splice(start..start + length, random.pick(NUMBERS).bytes());
}

fn nest(bytes: &mut Vec<u8>, random: &mut Random) {
    let depth = *random.pick(&[1, 10, 127, 128, 511, 512, 20_000, 100_000]);
    let (opening, closing) = *random.pick(&[("[", "]"), ("{\"a\":", "}"), ("[[", "]"), ("[", "")]);
    // All of it, or a value in the middle.
    let at = if random.percent(50) { 0 } else { bytes.iter().position(|byte| *byte == b':').map_or(0, |at| at + 1) };
    let inner = bytes.split_off(at);
    bytes.extend(opening.repeat(depth).bytes());
    bytes.extend(inner);
    bytes.extend(closing.repeat(depth).bytes());
}

fn in_another_encoding(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    match random.below(4) {
        0 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        1 => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        // Windows-1251, as far as the letters of these requests go.
        2 => text
            .chars()
            .map(|c| match u32::from(c) {
                code @ 0x410..=0x44f => (code - 0x350) as u8,
                code => u8::try_from(code).unwrap_or(b'?'),
            })
            .collect(),
        // UTF-8 that was taken for Latin-1.
        _ => bytes.iter().flat_map(|byte| char::from(*byte).to_string().into_bytes()).collect(),
    }
}

/// Any JSON, with these names in its objects.
pub fn json(random: &mut Random, names: &[&str], depth: u32) -> String {
    let leaf = depth == 0 || random.percent(30);
    match random.below(if leaf { 5 } else { 7 }) {
        0 => "null".into(),
        1 => random.percent(50).to_string(),
        2 => loop {
            let number = random.pick(NUMBERS);
            // The last ones are no JSON.
            if !["00", "0x10"].contains(number) {
                break (*number).into();
            }
        },
        3 => format!("\"{}\"", random.pick(&["", "x", "1", "Стол", "\\u0000", "\\ud83d\\ude00", "-1", "Y", "\\\\"])),
        4 => (*random.pick(&["[]", "{}", "\"0\"", "1", "[null]"])).into(),
        5 => {
            let items: Vec<String> = (0..random.below(4)).map(|_| json(random, names, depth - 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => {
            let entry = |random: &mut Random| {
                let name = *random.pick(names);
                format!("\"{name}\":{}", json(random, names, depth - 1))
            };
            let entries: Vec<String> = (0..random.below(5)).map(|_| entry(random)).collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}
