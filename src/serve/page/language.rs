//! In which language a page is written.

use crate::values::request::Variables;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Russian,
    English,
}

impl Language {
    /// `LANG` of Bitrix24's frame, or else the browser's first language.
    pub fn choose(lang: Option<&str>, accept_language: Option<&str>) -> Language {
        match (lang.filter(|lang| !lang.is_empty()), accept_language) {
            (Some(lang), _) => Self::of_tag(lang),
            (None, Some(header)) => Self::of_tag(first_choice(header)),
            (None, None) => Language::English,
        }
    }

    pub fn of(variables: &Variables, lang: Option<&str>) -> Language {
        Self::choose(lang, variables.text("HTTP_ACCEPT_LANGUAGE"))
    }

    fn of_tag(tag: &str) -> Language {
        match tag.split(['-', '_']).next() {
            Some(primary) if primary.trim().eq_ignore_ascii_case("ru") => Language::Russian,
            _ => Language::English,
        }
    }

    pub fn code(&self) -> &'static str {
        match self {
            Language::Russian => "ru",
            Language::English => "en",
        }
    }

    pub fn pick<T>(self, russian: T, english: T) -> T {
        match self {
            Language::Russian => russian,
            Language::English => english,
        }
    }
}

/// The tag with the highest weight, the first of equals (RFC 9110, section 12.5.4).
fn first_choice(header: &str) -> &str {
    let weight = |part: &str| {
        let q = part.split(';').skip(1).find_map(|p| p.trim().strip_prefix("q=")).unwrap_or("1");
        q.trim().parse::<f32>().ok().filter(|q| q.is_finite()).unwrap_or(0.0)
    };
    let mut best = ("", 0.0);
    for part in header.split(',') {
        let weight = weight(part);
        if weight > best.1 {
            best = (part.split(';').next().unwrap_or("").trim(), weight);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_are_russian_for_lang_or_accept_language_ru_and_english_otherwise() {
        use Language::*;
        for (lang, accept, expected) in [
            (Some("ru"), Some("en"), Russian),
            (Some("en"), Some("ru"), English),
            (Some("ua"), None, English),
            (None, Some("ru-RU,ru;q=0.9,en-US;q=0.8"), Russian),
            (None, Some("en-US,en;q=0.9,ru;q=0.8"), English),
            (None, Some("de;q=0.5, ru;q=0.7"), Russian),
            (None, Some(""), English),
            (None, None, English),
        ] {
            assert_eq!(Language::choose(lang, accept), expected, "{lang:?} {accept:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(lang in proptest::option::of("\\PC{0,10}"), accept in "\\PC{0,40}") {
            let _ = Language::choose(lang.as_deref(), Some(&accept));
        }
    }
}
