//! How PHP, and Bitrix24 on top of it, reads parameters: query string, form, multipart, JSON.

use crate::http::Request;
use crate::multipart::{self, Form};
use crate::php::{Array, Key, Php};

/// The parameters of a REST 2 call: the query, and the body over it.
pub(crate) fn of_request(request: &Request) -> Array {
    let mut params = parse_query(request.query.as_bytes());
    params.replace(of_body(request));
    params
}

/// What a REST 2 call has in its body: the form, or, where there is no form, `application/json`. Invalid JSON is silently
/// nothing.
pub(crate) fn of_body(request: &Request) -> Array {
    if request.method != "POST" {
        return Array::new();
    }
    let form = form(request);
    if form.is_empty() && is_json(request) {
        json_body(&request.body)
    } else {
        form
    }
}

/// The form over `params`, as the OAuth server reads it (no JSON).
pub(crate) fn of_form(request: &Request, mut params: Array) -> Array {
    params.replace(form(request));
    params
}

pub(crate) fn is_json(request: &Request) -> bool {
    media_type(request) == "application/json"
}

/// The array in a JSON body; anything else gives no parameters.
pub(crate) fn json_body(body: &[u8]) -> Array {
    match Php::from_json(body) {
        Some(Php::Array(array)) => array,
        _ => Array::new(),
    }
}

fn media_type(request: &Request) -> String {
    let full = request.header("content-type").unwrap_or_default();
    let name = full.split(';').next().unwrap_or_default();
    name.trim().to_ascii_lowercase()
}

fn form(request: &Request) -> Array {
    match media_type(request).as_str() {
        "application/x-www-form-urlencoded" => parse_query(&request.body),
        "multipart/form-data" => {
            let mut form = Form::default();
            if let Some(boundary) = boundary(request) {
                // A slice does not fail.
                let _ = multipart::read(&mut &request.body[..], &boundary, &mut form);
            }
            form.fields
        }
        _ => Array::new(),
    }
}

/// `parse_str`: `a[b][c]=1&a[]=2&plain=3`.
pub(crate) fn parse_query(text: &[u8]) -> Array {
    let mut params = Array::new();
    for pair in text.split(|b| *b == b'&') {
        let (name, value) = match pair.iter().position(|b| *b == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &pair[pair.len()..]),
        };
        register(&mut params, &decode(name), decode(value));
    }
    params
}

/// A form as PHP reads it, in JSON.
pub fn form_as_json(form: &[u8]) -> String {
    Php::Array(parse_query(form)).encode()
}

/// `urldecode`: `+` is a space, a `%` that two hexadecimal digits do not follow stays.
/// Bytes that are not UTF-8 become U+FFFD (PHP would keep them).
pub(crate) fn decode(text: &[u8]) -> String {
    percent_decode(text, true)
}

pub(crate) fn percent_decode(text: &[u8], plus: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        match text[i] {
            b'+' if plus => out.push(b' '),
            b'%' => match text.get(i + 1..i + 3).and_then(hex_byte) {
                Some(byte) => {
                    out.push(byte);
                    i += 2;
                }
                None => out.push(b'%'),
            },
            byte => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let high = (digits[0] as char).to_digit(16)?;
    let low = (digits[1] as char).to_digit(16)?;
    Some((high * 16 + low) as u8)
}

/// The other direction, for what Bitrix24 itself sends.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

pub(crate) fn encode_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: &[(N, V)]) -> String {
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name.as_ref()), encode(value.as_ref()))).collect();
    pairs.join("&")
}

/// One variable, as `php_register_variable_ex` enters it: leading spaces are dropped; spaces and dots
/// before the first `[` become `_`; what follows the last `]` is ignored; a `[` that is never closed
/// is a `_`.
pub(crate) fn register(params: &mut Array, name: &str, value: String) {
    let name = name.trim_start_matches(' ');
    // PHP's names end at a NUL.
    let name = name.split('\0').next().unwrap_or_default();
    let bracket = name.find('[').unwrap_or(name.len());
    let mut top: String = name[..bracket].chars().map(|c| if c == ' ' || c == '.' { '_' } else { c }).collect();
    if top.is_empty() {
        return;
    }
    let mut rest = &name[bracket..];
    let mut path: Vec<Option<Key>> = Vec::new();
    while let Some(inside) = rest.strip_prefix('[') {
        let trimmed = inside.strip_prefix(|c: char| c.is_ascii_whitespace()).unwrap_or(inside);
        if let Some(after) = trimmed.strip_prefix(']') {
            path.push(None);
            rest = after;
        } else if let Some(end) = inside.find(']') {
            path.push(Some(Key::new(&inside[..end])));
            rest = &inside[end + 1..];
        } else {
            if path.is_empty() {
                top = format!("{top}_{inside}");
            }
            break;
        }
    }
    let mut keys = std::iter::once(Some(Key::new(&top))).chain(path).collect::<Vec<_>>();
    let last = keys.pop().unwrap_or_default();
    let array = keys.into_iter().fold(params, |array, key| array.array_at(key));
    match last {
        Some(key) => array.set(key, Php::Str(value)),
        None => array.push(Php::Str(value)),
    }
}

/// Of a `multipart/form-data` body.
pub(crate) fn boundary(request: &Request) -> Option<String> {
    let content_type = request.header("content-type").filter(|_| media_type(request) == "multipart/form-data")?;
    let at = content_type.to_ascii_lowercase().find("boundary=")? + "boundary=".len();
    let value = &content_type[at..];
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split([';', ',']).next(),
    };
    value.map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
}

/// Quotes of either kind; of a name given twice the last, as in PHP.
pub(crate) fn attribute(head: &str, name: &str) -> Option<String> {
    let disposition = head.lines().find(|l| l.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let found = disposition.split(';').skip(1).filter_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches(['"', '\'']).to_owned())
    });
    found.last()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> String {
        Php::Array(parse_query(text.as_bytes())).encode()
    }

    fn post(query: &str, content_type: &str, body: &str) -> String {
        let request = Request {
            method: "POST".to_owned(),
            query: query.to_owned(),
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body: body.as_bytes().to_vec(),
            ..Request::default()
        };
        Php::Array(of_request(&request)).encode()
    }

    #[test]
    fn brackets_make_arrays() {
        assert_eq!(
            query("fields[TITLE]=a+b%21&fields[N][]=1&fields[N][]=2"),
            r#"{"fields":{"TITLE":"a b!","N":["1","2"]}}"#
        );
        assert_eq!(query("filter[>ID]=5&"), r#"{"filter":{">ID":"5"}}"#);
        assert_eq!(query("a[5]=x&a[]=y&a[b]=z"), r#"{"a":{"5":"x","6":"y","b":"z"}}"#);
        assert_eq!(query("a%5Bb%5D=1"), r#"{"a":{"b":"1"}}"#);
    }

    #[test]
    fn odd_names_are_read_as_php_reads_them() {
        assert_eq!(query("a.b=1&c d=2"), r#"{"a_b":"1","c_d":"2"}"#);
        assert_eq!(query("a[b=1"), r#"{"a_b":"1"}"#);
        assert_eq!(query("a[b]c=1"), r#"{"a":{"b":"1"}}"#);
        assert_eq!(query("a[b][c=1"), r#"{"a":{"b":"1"}}"#);
        assert_eq!(query("=1&&[x]=2&a"), r#"{"a":""}"#);
        assert_eq!(query("a.b[c.d]=1"), r#"{"a_b":{"c.d":"1"}}"#);
        assert_eq!(query("a=100%&b=%zz"), r#"{"a":"100%","b":"%zz"}"#);
    }

    #[test]
    fn the_last_of_a_name_wins() {
        assert_eq!(query("a=1&a=2"), r#"{"a":"2"}"#);
        assert_eq!(query("a=1&a[b]=2"), r#"{"a":{"b":"2"}}"#);
        assert_eq!(query("a[b]=2&a=1"), r#"{"a":"1"}"#);
    }

    #[test]
    fn the_form_lies_over_the_query() {
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        assert_eq!(post("a=1&b=2", form, "b=3&c=4"), r#"{"a":"1","b":"3","c":"4"}"#);
    }

    #[test]
    fn json_is_read_only_with_its_content_type() {
        let body = r#"{"b":[null,1],"a":{}}"#;
        assert_eq!(post("b=2", "Application/JSON; charset=x", body), r#"{"b":[null,1],"a":[]}"#);
        assert_eq!(post("b=2", "text/json", body), r#"{"b":"2"}"#);
        assert_eq!(post("b=2", "application/json", "{broken"), r#"{"b":"2"}"#);
        assert_eq!(post("auth=t", "application/json", "[7,{}]"), r#"{"auth":"t","0":7,"1":[]}"#);
    }

    #[test]
    fn multipart_forms_are_forms() {
        let body = "--X\r\nContent-Disposition: form-data; name=\"a[b]\"\r\n\r\none\r\ntwo\r\n\
                    --X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\nfile\r\n--X--\r\n";
        assert_eq!(post("", "multipart/form-data; boundary=\"X\"", body), r#"{"a":{"b":"one\r\ntwo"}}"#);
    }
}
