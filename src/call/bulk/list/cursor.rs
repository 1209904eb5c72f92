//! Where the reading of a list goes on. Callers see it as an opaque text.

use crate::values::method::Method;
use crate::values::secret::{hex, sha256};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Behind the row with this ID.
    AfterId(u64),
    /// The same, where the list seemed to end but counted more rows than were read.
    AfterGap(u64),
    /// At the page that begins at `start`. `known`: it was read and had these rows; it is read again, because rows may
    /// have moved, and what stands behind them is new.
    Start { start: u64, known: Vec<u64> },
}

/// Bytes of a cursor: a page's IDs, each of at most 20 digits.
const LONGEST: usize = 24 << 10;

impl Cursor {
    /// Reads a cursor that was given for this method.
    pub fn parse(text: &str, method: &Method) -> Option<Cursor> {
        let (text, sum) = text.rsplit_once('.').filter(|_| text.len() <= LONGEST)?;
        if sum != checksum(text, method) {
            return None;
        }
        let mut parts = text.split(':');
        let (kind, number) = (parts.next()?, digits(parts.next()?)?);
        match (kind, parts.next()) {
            ("id", None) => Some(Cursor::AfterId(number)),
            ("gap", None) => Some(Cursor::AfterGap(number)),
            ("start", None) => Some(Cursor::Start { start: number, known: Vec::new() }),
            ("start", Some(ids)) => {
                let known = ids.split(',').map(digits).collect::<Option<_>>()?;
                parts.next().is_none().then_some(Cursor::Start { start: number, known })
            }
            _ => None,
        }
    }

    pub fn to_text(&self, method: &Method) -> String {
        let text = match self {
            Cursor::AfterId(id) => format!("id:{id}"),
            Cursor::AfterGap(id) => format!("gap:{id}"),
            Cursor::Start { start, known } if known.is_empty() => format!("start:{start}"),
            Cursor::Start { start, known } => {
                let ids: Vec<String> = known.iter().map(u64::to_string).collect();
                format!("start:{start}:{}", ids.join(","))
            }
        };
        format!("{text}.{}", checksum(&text, method))
    }
}

/// Against mistakes, such as a cursor of another method.
fn checksum(text: &str, method: &Method) -> String {
    hex(&sha256(format!("{}\n{text}", method.canonical()).as_bytes())[..4])
}

fn digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn method(name: &str) -> Method {
        Method::parse(name).unwrap()
    }

    #[test]
    fn a_cursor_that_was_changed_or_is_another_methods_is_none() {
        let text = Cursor::AfterId(7).to_text(&method("crm.deal.list"));
        assert_eq!(Cursor::parse(&text, &method("CRM.deal.list")), Some(Cursor::AfterId(7)));
        assert_eq!(Cursor::parse(&text, &method("crm.lead.list")), None);
        assert_eq!(Cursor::parse(&text.replace('7', "8"), &method("crm.deal.list")), None);
    }

    proptest! {
        #[test]
        fn a_cursor_goes_there_and_back(number: u64, known in proptest::option::of(proptest::collection::vec(any::<u64>(), 0..5))) {
            let cursor = known.map_or(Cursor::AfterId(number), |known| Cursor::Start { start: number, known });
            prop_assert_eq!(Cursor::parse(&cursor.to_text(&method("m")), &method("m")), Some(cursor));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = Cursor::parse(&text, &method("m"));
            let _ = Cursor::parse(&format!("{text}.{}", checksum(&text, &method("m"))), &method("m"));
        }
    }
}
