//! Events that Bitrix24 reports: their names, for whom they are, and how many are kept.

use std::time::Duration;

/// `event` as it was posted: letters, digits, `_`, `.`, `:` and `-`, at most 128 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventName(String);

impl EventName {
    const MAX: usize = 128;

    pub fn parse(text: &str) -> Option<EventName> {
        (!text.is_empty() && text.len() <= Self::MAX && text.chars().all(is_of_a_name))
            .then(|| EventName(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As Bitrix24 lists it, and as names are compared.
    pub fn canonical(&self) -> String {
        self.0.to_ascii_uppercase()
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-')
}

/// One entry of a client's `events`: a name, or a beginning before `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPattern(String);

impl EventPattern {
    pub fn parse(text: &str) -> Option<EventPattern> {
        let bare = text.strip_suffix('*').unwrap_or(text);
        (!text.is_empty() && bare.chars().all(is_of_a_name)).then(|| EventPattern(text.to_ascii_uppercase()))
    }

    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
            None => name.eq_ignore_ascii_case(&self.0),
        }
    }
}

/// Which events a client may see, and register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audible {
    All,
    /// Perhaps none.
    Of(Vec<EventPattern>),
}

impl Audible {
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Audible::All => true,
            Audible::Of(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
        }
    }

    pub fn is_nothing(&self) -> bool {
        matches!(self, Audible::Of(patterns) if patterns.is_empty())
    }
}

/// What is kept of a portal's events; the oldest go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub keep: Duration,
    pub most: u64,
    /// Bytes of their lines, as [`line()`] makes them.
    pub max_size: u64,
}

impl Bounds {
    /// Of an event that arrived then, milliseconds since 1970.
    pub fn is_young(&self, at_ms: i64, now_ms: i64) -> bool {
        at_ms >= self.oldest_ms(now_ms)
    }

    pub fn oldest_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX))
    }

    /// The first of the numbers up to `last` that are not too many.
    pub fn lowest(&self, last: u64) -> u64 {
        last.saturating_sub(self.most) + 1
    }
}

/// How an event is kept, and how much it counts: a line of JSON.
pub fn line(at_ms: i64, name: &str, data: &str) -> String {
    // A name needs no escapes.
    format!("{{\"at\":{at_ms},\"event\":\"{name}\",\"data\":{data}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::nested::nested;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_what_bitrix24_calls_an_event_and_is_compared_in_upper_case() {
        for name in ["ONCRMDEALADD", "onCrmDealAdd", "ONCRMDYNAMICITEMUPDATE_128"] {
            assert_eq!(EventName::parse(name).unwrap().canonical(), name.to_uppercase());
        }
        for bad in ["", "A B", "A\n", "ЖУК", "A\"", "A\u{7f}", &"A".repeat(129)] {
            assert_eq!(EventName::parse(bad), None, "{bad:?}");
        }
        let pattern = EventPattern::parse("onCrm*").unwrap();
        assert!(pattern.matches("ONCRMDEALADD") && pattern.matches("OnCrmLeadAdd") && pattern.matches("ONCRM"));
        assert!(!pattern.matches("ONCR") && !pattern.matches("ONTASKADD") && !pattern.matches("OЖ"));
        let pattern = EventPattern::parse("ONTASKADD").unwrap();
        assert!(pattern.matches("onTaskAdd") && !pattern.matches("ONTASKADDED"));
        assert_eq!((EventPattern::parse(""), EventPattern::parse("ON*CRM")), (None, None));
        assert!(EventPattern::parse("*").unwrap().matches("X"));
    }

    proptest! {
        #[test]
        fn what_is_kept_is_one_line_of_json(name in "[A-Za-z0-9_.:-]{1,40}", form in "[ -~\n\r\u{0}]{0,80}", at in any::<i64>()) {
            let line = line(at, EventName::parse(&name).unwrap().as_str(), &nested(form.as_bytes(), "data"));
            prop_assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["event"].as_str(), Some(name.as_str()));
        }
    }
}
