//! What a portal's answer means: success, Bitrix24's own error, a move, or the answer of somebody else.

use crate::system::log::printable;
use crate::values::error::Upstream;
use crate::values::foreign::{Answered, Foreign};
use crate::values::json;
use std::borrow::Cow;

/// What a portal's answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// Bitrix24's own error.
    Error(Upstream),
    /// 302: the portal has another address. Nothing was executed.
    Moved,
    /// Not what Bitrix24 answers.
    Foreign(Foreign),
}

/// How much of a method's time is used, as `time` in an answer says.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
pub struct Operating {
    /// Seconds.
    pub operating: f64,
    /// Unix seconds.
    pub operating_reset_at: i64,
}

/// Reads an answer. In its XML form it is read only where that was asked for (`.xml`): nobody else could use it.
pub fn judge_either(answered: &Answered, xml: bool) -> (Verdict, Option<Operating>) {
    let text = std::str::from_utf8(answered.body).map(str::trim_start);
    match text {
        Ok(text) if xml && !(300..400).contains(&answered.status) && text.starts_with("<?xml") => {
            (judge_xml(answered.status, text), None)
        }
        _ => judge(answered),
    }
}

/// The same of JSON.
pub fn judge(answered: &Answered) -> (Verdict, Option<Operating>) {
    let status = answered.status;
    if status == 302 {
        return (Verdict::Moved, None);
    }
    let text = std::str::from_utf8(answered.body).ok();
    let text = text.filter(|text| !(300..400).contains(&status) && text.trim_start().starts_with('{'));
    let fields = text.and_then(|text| json::fields(text, ["result", "error", "error_description", "time"]).ok());
    let Some([result, error, error_description, time]) = fields else {
        return (Verdict::Foreign(Foreign::of(answered)), None);
    };
    let operating = time.and_then(|raw| serde_json::from_str(raw).ok());
    let failed = status >= 400 || (error.is_some() && result.is_none());
    if !failed {
        return (Verdict::Success, operating);
    }
    let (error, error_description) = match error {
        Some(raw) if raw.starts_with('{') => version_3_error(raw),
        raw => (raw.map(text_of).unwrap_or_default(), error_description.map(text_of).unwrap_or_default()),
    };
    (Verdict::Error(Upstream { status, error, error_description, ..Upstream::default() }), operating)
}

/// The XML form of an answer, `<response><error>…`: only whether it is an error, and which.
fn judge_xml(status: u16, xml: &str) -> Verdict {
    let element = |name: &str| {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        Some(printable(rest.split('<').next().unwrap_or("")).into_owned())
    };
    match element("error") {
        Some(error) if status >= 400 => {
            let error_description = element("error_description").unwrap_or_default();
            Verdict::Error(Upstream { status, error, error_description, ..Upstream::default() })
        }
        None if status >= 400 => Verdict::Error(Upstream { status, ..Upstream::default() }),
        _ => Verdict::Success,
    }
}

/// A string without its quotes; anything else (an error may be a number) as it stands. Without control characters.
pub fn text_of(raw: &str) -> String {
    let text = match serde_json::from_str::<Option<String>>(raw) {
        Ok(text) => text.unwrap_or_default(),
        Err(_) => raw.to_owned(),
    };
    match printable(&text) {
        Cow::Owned(printable) => printable,
        Cow::Borrowed(_) => text,
    }
}

/// `{"code","message","validation":[…]}` of REST 3.0; what was not valid belongs to the description.
fn version_3_error(raw: &str) -> (String, String) {
    let [code, message, validation] = json::fields(raw, ["code", "message", "validation"]).unwrap_or_default();
    let mut description = message.map(text_of).unwrap_or_default();
    if let Some(validation) = validation.filter(|validation| *validation != "[]") {
        description.push_str(if description.is_empty() { "" } else { " " });
        description.push_str(&printable(validation));
    }
    (code.map(text_of).unwrap_or_default(), description)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answered(status: u16, body: &[u8]) -> Answered<'_> {
        Answered { status, body, ..Answered::default() }
    }

    #[test]
    fn xml_is_an_answer_only_to_who_asked_for_it() {
        let xml = b" <?xml version=\"1.0\"?><response><error>X</error></response>";
        assert!(matches!(judge_either(&answered(400, xml), true).0, Verdict::Error(upstream) if upstream.error == "X"));
        assert_eq!(judge_either(&answered(200, xml), true).0, Verdict::Success);
        let turned = "<?xml version=\"1.0\"?><error>A\u{202e}B\u{1b}</error>".as_bytes();
        assert!(
            matches!(judge_either(&answered(400, turned), true).0, Verdict::Error(upstream) if upstream.error == "A B ")
        );
        assert_eq!(judge_either(&answered(302, xml), true).0, Verdict::Moved);
        assert!(matches!(judge_either(&answered(200, xml), false).0, Verdict::Foreign(_)));
        assert_eq!(judge_either(&answered(200, br#"{"result":1}"#), true).0, Verdict::Success);
    }

    #[test]
    fn answers_are_told_apart() {
        let judge = |status, body: &[u8]| judge(&answered(status, body)).0;
        let error = |status, body: &str| match judge(status, body.as_bytes()) {
            Verdict::Error(upstream) => (upstream.error, upstream.error_description),
            other => panic!("{other:?}"),
        };
        assert_eq!(judge(200, br#"{"result":{"error":"x"},"time":{}}"#), Verdict::Success);
        assert_eq!(judge(200, br#"{"result":null,"error":""}"#), Verdict::Success);
        // As PHP would have read it, the last of a name counts.
        assert_eq!(error(400, r#"{"error":"FIRST","error":"LAST"}"#), ("LAST".into(), String::new()));
        assert_eq!(judge(302, b"<html>"), Verdict::Moved);
        for status in [300, 301, 303, 307, 308] {
            assert!(matches!(judge(status, br#"{"result":1}"#), Verdict::Foreign(_)), "only 302 names another address");
        }
        assert!(matches!(judge(200, b"<html>"), Verdict::Foreign(_)));
        assert!(matches!(judge(200, b""), Verdict::Foreign(_)));
        assert!(matches!(judge(200, b"[1]"), Verdict::Foreign(_)));
        assert!(matches!(judge(502, b"{\"result\":"), Verdict::Foreign(_)));
        assert_eq!(
            error(401, r#"{"error":"expired_token","error_description":"x"}"#),
            ("expired_token".into(), "x".into())
        );
        assert_eq!(error(200, r#"{"error":"OLD"}"#), ("OLD".into(), String::new()));
        assert_eq!(error(400, r#"{"error":"","error_description":"why"}"#), (String::new(), "why".into()));
        assert_eq!(error(400, r#"{"error":100}"#), ("100".into(), String::new()));
        assert_eq!(error(500, "{}"), (String::new(), String::new()));
        assert_eq!(
            error(400, r#"{"error":{"code":"BAD","message":"no","validation":[{"field":"id"}]}}"#),
            ("BAD".into(), r#"no [{"field":"id"}]"#.into())
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = judge(&answered(status, &body));
        }
    }
}
