//! REST method names, and the lists of those that a client may call.

/// `method` as a caller wrote it: letters, digits, `.`, `_`, `-`, at most 128 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(String);

impl Method {
    pub const MAX: usize = 128;

    pub fn parse(text: &str) -> Option<Method> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        // A name of dots only would be a path segment that leaves /rest/.
        let named = text.chars().any(|c| c != '.');
        (text.len() <= Self::MAX && named && text.chars().all(valid)).then(|| Method(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as Bitrix24 looks it up and allow-lists compare it: lower-cased, without `.json` / `.xml`.
    pub fn canonical(&self) -> String {
        canonical(&self.0)
    }

    pub fn is_batch(&self) -> bool {
        self.canonical() == "batch"
    }

    /// Whether the caller asks for the XML form of the answer.
    pub fn wants_xml(&self) -> bool {
        self.0.to_ascii_lowercase().ends_with(".xml")
    }
}

fn canonical(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match lower.strip_suffix(".json").or_else(|| lower.strip_suffix(".xml")) {
        Some(bare) => bare.to_owned(),
        None => lower,
    }
}

/// One entry of a client's `methods`: a name, or a prefix that ends in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    pub fn parse(text: &str) -> Option<Pattern> {
        let bare = text.strip_suffix('*').unwrap_or(text);
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        (!text.is_empty() && bare.chars().all(valid)).then(|| Pattern(canonical(text)))
    }

    pub fn matches(&self, canonical: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => canonical.starts_with(prefix),
            None => canonical == self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_method_is_letters_digits_dot_underscore_and_hyphen_at_most_128() {
        assert!(Method::parse("crm.deal.add").is_some());
        assert!(Method::parse("task.commentitem-add_2").is_some());
        assert!(Method::parse(&"a".repeat(128)).is_some());
        assert!(Method::parse(&"a".repeat(129)).is_none());
        for bad in ["", ".", "..", "crm/deal", "crm deal", "crm?x", "cрm.deal", "a\n"] {
            assert!(Method::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_compare_the_lower_cased_name_without_suffix() {
        let pattern = Pattern::parse("CRM.*").unwrap();
        let matches = |m: &str| pattern.matches(&Method::parse(m).unwrap().canonical());
        assert!(matches("crm.Deal.Add.JSON"));
        assert!(!matches("crmx.deal"));
        assert!(!matches("user.get"));
        assert!(Pattern::parse("crm deal").is_none());
        assert!(Pattern::parse("crm.deal.add.json").unwrap().matches("crm.deal.add"));
    }

    proptest! {
        #[test]
        fn every_parsed_method_is_safe_in_a_path(text in ".{0,140}") {
            if let Some(method) = Method::parse(&text) {
                prop_assert!(method.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
                prop_assert!(method.as_str() != "." && method.as_str() != "..");
                prop_assert!(method.as_str().len() <= Method::MAX);
            }
        }
    }
}
