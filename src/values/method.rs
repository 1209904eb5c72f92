//! REST method names, and the lists of those that a client may call.

/// The first deletes the events that it answers, the second marks notifications as read.
const CHANGE_WHAT_THEY_READ: [&str; 2] = ["event.offline.get", "im.notify.read.list"];

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

    /// Whether its name says that it changes nothing. A batch may hold anything.
    pub fn only_reads(&self) -> bool {
        let name = self.canonical();
        let last = name.rsplit_once('.').map_or("", |(_, last)| last);
        matches!(last, "list" | "get" | "fields") && !CHANGE_WHAT_THEY_READ.contains(&name.as_str())
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

    #[test]
    fn a_method_that_only_reads_says_so_at_the_end_of_its_name() {
        let only_reads = |name: &str| Method::parse(name).unwrap().only_reads();
        for name in ["crm.deal.list", "user.get", "crm.deal.fields", "CRM.Deal.List.JSON", "crm.deal.GET.xml"] {
            assert!(only_reads(name), "{name}");
        }
        for name in [
            "batch",
            "batch.json",
            "BATCH",
            "list",
            "get.json",
            "crm.deal.add",
            "crm.deal.list.add",
            "crm.getlist",
            "crm.deal.list.json.json",
            "crm.deal.get_",
            "crm.deal.list.",
            "event.offline.get",
            "Event.Offline.Get.xml",
            "im.notify.read.list",
        ] {
            assert!(!only_reads(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn only_the_last_part_of_a_name_says_that_a_method_only_reads(
            start in "[a-z.]{1,20}",
            last in "(list|get|fields|add|update|delete|getlist|lists|)",
            suffix in "(|\\.json|\\.XML)",
        ) {
            let name = format!("{start}.{last}{suffix}");
            let says = matches!(last.as_str(), "list" | "get" | "fields");
            for name in [name.clone(), name.to_ascii_uppercase()] {
                prop_assert_eq!(Method::parse(&name).is_some_and(|method| method.only_reads()), says, "{}", name);
            }
        }

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
