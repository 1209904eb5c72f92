//! Answers that repeat what they must not: `sim.leak`, and what a fault may answer.

use crate::http::Reply;
use crate::ledger::Auth;
use crate::params::encode;
use crate::php::{Array, Php};
use crate::rest::Job;
use crate::state::{PortalState, State};
use crate::xml::escape;

/// How an answer looks that repeats secrets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LeakAs {
    /// `{"result":{…}}`, in keys and values.
    Success,
    /// `{"error":"LEAK","error_description":…}`
    Error,
    /// The same, and in the error code too.
    ErrorCode,
    /// `{"error":{"code","message","validation":[…]}}`
    Rest3Error,
    /// A web page, in its title too.
    Html,
}

impl LeakAs {
    /// `success`, `error`, `error_code`, `rest3_error`, `html`
    pub(crate) fn named(name: &str) -> Option<LeakAs> {
        Some(match name {
            "success" => LeakAs::Success,
            "error" => LeakAs::Error,
            "error_code" => LeakAs::ErrorCode,
            "rest3_error" => LeakAs::Rest3Error,
            "html" => LeakAs::Html,
            _ => return None,
        })
    }

    fn status(self) -> u16 {
        match self {
            LeakAs::Success => 200,
            LeakAs::Html => 502,
            _ => 400,
        }
    }
}

/// The ways a secret may be written in an answer: as it is, percent-encoded, escaped as in JSON. Whoever looks for a leak looks
/// for all of them.
pub fn spellings(secret: &str) -> Vec<String> {
    let mut spellings: Vec<String> = in_text(secret).into_iter().chain(in_json(secret)).map(|(_, text)| text).collect();
    spellings.sort();
    spellings.dedup();
    spellings
}

/// Those that may stand anywhere.
fn in_text(secret: &str) -> Vec<(&'static str, String)> {
    let encoded = encode(secret);
    let every: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let first = secret.chars().next().map_or(0, char::len_utf8);
    let mixed = every[..3 * first].to_owned() + &secret[first..];
    vec![
        ("plain", secret.to_owned()),
        ("percent", encoded.clone()),
        ("percent_lower", lower_escapes(&encoded)),
        ("form", encoded.replace("%20", "+")),
        ("percent_every", every.clone()),
        ("percent_every_lower", lower_escapes(&every)),
        ("percent_first", mixed),
    ]
}

/// Those that are JSON's alone, as they stand between the quotes.
fn in_json(secret: &str) -> Vec<(&'static str, String)> {
    let quoted = Php::from(secret).encode();
    let php = quoted[1..quoted.len() - 1].to_owned();
    let units = |text: &str| text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
    let every = units(secret);
    let first = secret.chars().next().map_or(0, char::len_utf8);
    let rest = Php::from(&secret[first..]).encode();
    let percent: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    vec![
        ("json", php.clone()),
        ("json_plain_slashes", php.replace("\\/", "/")),
        ("json_least", least_escaped(secret)),
        ("json_every", every.clone()),
        ("json_every_upper", every.to_uppercase().replace("\\U", "\\u")),
        ("json_first", units(&secret[..first]) + &rest[1..rest.len() - 1]),
        ("json_of_percent", units(&percent)),
    ]
}

/// Between the quotes of JSON, with no escape but those that JSON wants.
fn least_escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// `%2F` as `%2f`
fn lower_escapes(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push('%');
        out.push_str(&part[..2].to_lowercase());
        out.push_str(&part[2..]);
    }
    out
}

/// Names and values.
type Secrets = Vec<(&'static str, String)>;

/// What a portal could repeat to who calls with this token; its own secrets, and the refresh token beside the access token.
pub(crate) fn secrets(state: &State, portal: usize, access_token: Option<&str>) -> Secrets {
    let refresh_token = access_token.and_then(|token| state.oauth.refresh_token_beside(token));
    secrets_of(&state.portals[portal], access_token, refresh_token)
}

pub(crate) fn secrets_of(portal: &PortalState, access_token: Option<&str>, refresh_token: Option<&str>) -> Secrets {
    let tokens = [("access_token", access_token), ("refresh_token", refresh_token)];
    let mut secrets: Secrets = tokens.into_iter().filter_map(|(name, token)| Some((name, token?.to_owned()))).collect();
    secrets.push(("application_token", portal.application_token.clone()));
    secrets.push(("client_secret", portal.application.client_secret.clone()));
    secrets.push(("webhook_code", portal.webhook_code.clone()));
    secrets.push(("webhook_url", format!("{}/rest/1/{}/", portal.url(), portal.webhook_code)));
    secrets
}

/// `sim.leak {"as","status"}`
pub(crate) fn answer(job: &Job<'_>, params: &Array) -> Reply {
    job.shared.ledger.update_call(job.number, |call| call.executed = true);
    let (shape, status) = wanted(params);
    let token = match &job.credentials.auth {
        Auth::Token(token) => Some(token.as_str()),
        _ => None,
    };
    let secrets = secrets(&job.shared.state(), job.portal, token);
    reply(&secrets, shape, status, &job.time().encode())
}

fn wanted(params: &Array) -> (LeakAs, Option<u16>) {
    let shape = params.get("as").and_then(|name| LeakAs::named(&name.to_text())).unwrap_or(LeakAs::Success);
    let status = params.get("status").and_then(Php::to_int).and_then(|status| u16::try_from(status).ok());
    (shape, status)
}

/// Within a batch, where PHP itself writes the JSON: a result, or an error's description.
pub(crate) fn in_batch(state: &State, portal: usize, token: Option<&str>, params: &Array) -> Result<Php, String> {
    let secrets = secrets(state, portal, token);
    if wanted(params).0 != LeakAs::Success {
        return Err(prose(&secrets, &in_text));
    }
    let mut result = Array::new();
    for (name, secret) in &secrets {
        let mut row = Array::new();
        for (spelling, text) in in_text(secret) {
            row.put(spelling, text.as_str());
            row.put(&format!("{spelling} {text}"), true);
        }
        result.put(name, row);
    }
    Ok(result.into())
}

/// All of it as text: `access_token=… …; refresh_token=…`
fn prose(secrets: &Secrets, spell: &dyn Fn(&str) -> Vec<(&'static str, String)>) -> String {
    let one = |(name, secret): &(&str, String)| {
        let spelled: Vec<String> = spell(secret).into_iter().map(|(_, text)| text).collect();
        format!("{name}={}", spelled.join(" "))
    };
    secrets.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// `time` is the JSON for a success.
pub(crate) fn reply(secrets: &Secrets, shape: LeakAs, status: Option<u16>, time: &str) -> Reply {
    let status = status.unwrap_or(shape.status());
    // As raw JSON: what may stand anywhere must be escaped where JSON wants it.
    let spelled = |secret: &str| {
        let text = in_text(secret).into_iter().map(|(name, text)| (name, least_escaped(&text)));
        text.chain(in_json(secret)).collect::<Vec<_>>()
    };
    let everything = || format!("wrong: {}", prose(secrets, &spelled));
    let body = match shape {
        LeakAs::Success => {
            let row = |(name, secret): &(&str, String)| {
                let spelled = spelled(secret);
                let members =
                    spelled.iter().map(|(name, text)| format!("\"{name}\":\"{text}\",\"{name} {text}\":[\"{text}\"]"));
                format!("\"{name}\":{{{}}}", members.collect::<Vec<_>>().join(","))
            };
            let rows: Vec<String> = secrets.iter().map(row).collect();
            format!("{{\"result\":{{{},\"text\":\"{}\"}},\"time\":{time}}}", rows.join(","), everything())
        }
        LeakAs::Error => format!("{{\"error\":\"LEAK\",\"error_description\":\"{}\"}}", everything()),
        LeakAs::ErrorCode => {
            let code: Vec<String> = secrets.iter().map(|(_, secret)| spelled(secret).swap_remove(0).1).collect();
            format!("{{\"error\":\"LEAK {}\",\"error_description\":\"{}\"}}", code.join(" "), everything())
        }
        LeakAs::Rest3Error => {
            let line = |(_, secret): &(&str, String)| {
                let text: Vec<String> = spelled(secret).into_iter().map(|(_, text)| text).collect();
                format!("{{\"field\":\"{}\",\"message\":\"{}\"}}", text[0], text.join(" "))
            };
            let lines: Vec<String> = secrets.iter().map(line).collect();
            let (all, lines) = (everything(), lines.join(","));
            format!("{{\"error\":{{\"code\":\"LEAK\",\"message\":\"{all}\",\"validation\":[{lines}]}}}}")
        }
        LeakAs::Html => {
            let title: Vec<String> = secrets.iter().map(|(_, secret)| escape(secret)).collect();
            let text = escape(&prose(secrets, &|secret| [in_text(secret), in_json(secret)].concat()));
            let page = format!(
                "<html>\r\n<head><title>{status} {}</title></head>\r\n<body><p>{text}</p></body>\r\n</html>\r\n",
                title.join(" ")
            );
            return Reply::html(status, page);
        }
    };
    Reply::json(status, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_means_the_secret() {
        let secret = "a/b c+é\"\\%";
        for (name, text) in in_json(secret).into_iter().filter(|(name, _)| *name != "json_of_percent") {
            let decoded = Php::from_json(format!("\"{text}\"").as_bytes());
            assert_eq!(decoded, Some(Php::from(secret)), "{name}: {text}");
        }
        for (name, text) in in_text(secret).into_iter().filter(|(name, _)| name.starts_with("percent_every")) {
            assert_eq!(crate::params::percent_decode(text.as_bytes(), false), secret, "{name}: {text}");
        }
        let form = in_text(secret).into_iter().find(|(name, _)| *name == "form").expect("a form's spelling").1;
        assert_eq!(crate::params::decode(form.as_bytes()), secret);
        let all = spellings("a/b c");
        for text in
            ["a/b c", "a\\/b c", "a%2Fb%20c", "a%2fb%20c", "a%2Fb+c", "%61%2F%62%20%63", "%61%2f%62%20%63", "%61/b c"]
        {
            assert!(all.iter().any(|spelling| spelling == text), "{text}: {all:?}");
        }
        for text in ["\\u0061\\u002f\\u0062\\u0020\\u0063", "\\u0061\\u002F\\u0062\\u0020\\u0063", "\\u0061\\/b c"] {
            assert!(all.iter().any(|spelling| spelling == text), "{text}: {all:?}");
        }
    }

    #[test]
    fn every_shape_is_what_it_says() {
        let secrets = vec![("client_secret", "a/b \"c\\é".to_owned()), ("access_token", "0f".repeat(35))];
        for shape in [LeakAs::Success, LeakAs::Error, LeakAs::ErrorCode, LeakAs::Rest3Error] {
            let reply = reply(&secrets, shape, None, "{}");
            assert!(Php::from_json(&reply.body).is_some(), "{}", String::from_utf8_lossy(&reply.body));
            let text = String::from_utf8(reply.body).expect("UTF-8");
            assert!(spellings(&secrets[1].1).iter().all(|spelling| text.contains(spelling)), "{text}");
        }
        let page = reply(&secrets, LeakAs::Html, None, "{}");
        assert_eq!(page.status, 502);
    }
}
