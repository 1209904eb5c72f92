//! Where the reading of a list goes on. Callers see it as an opaque text.

use crate::values::method::Method;
use crate::values::secret::{hex, sha256};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub place: Place,
    /// There the list seemed to end, but counted other rows than were read.
    pub gap: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind the row with this ID.
    AfterId(u64),
    /// At the page that begins at `start`. `known`: it was read and had these rows; it is read again, because rows may
    /// have moved, and what stands behind them is new.
    Start { start: u64, known: Vec<u64> },
}

/// Bytes of a cursor: a page's IDs, each of at most 20 digits.
const LONGEST: usize = 24 << 10;

/// Before the place, where there is a gap.
const GAP: &str = "gap-";

impl Cursor {
    /// Reads a cursor that was given for this method.
    pub fn parse(text: &str, method: &Method) -> Option<Cursor> {
        let (text, sum) = text.rsplit_once('.').filter(|_| text.len() <= LONGEST)?;
        if sum != checksum(text, method) {
            return None;
        }
        let (place, gap) = text.strip_prefix(GAP).map_or((text, false), |place| (place, true));
        Some(Cursor { place: Place::parse(place)?, gap })
    }

    pub fn to_text(&self, method: &Method) -> String {
        let gap = if self.gap { GAP } else { "" };
        let text = format!("{gap}{}", self.place.to_text());
        format!("{text}.{}", checksum(&text, method))
    }
}

impl Place {
    fn parse(text: &str) -> Option<Place> {
        let mut parts = text.split(':');
        let (kind, number) = (parts.next()?, digits(parts.next()?)?);
        match (kind, parts.next()) {
            ("id", None) => Some(Place::AfterId(number)),
            ("start", None) => Some(Place::Start { start: number, known: Vec::new() }),
            ("start", Some(ids)) => {
                let known = ids.split(',').map(digits).collect::<Option<_>>()?;
                parts.next().is_none().then_some(Place::Start { start: number, known })
            }
            _ => None,
        }
    }

    fn to_text(&self) -> String {
        match self {
            Place::AfterId(id) => format!("id:{id}"),
            Place::Start { start, known } if known.is_empty() => format!("start:{start}"),
            Place::Start { start, known } => {
                let ids: Vec<String> = known.iter().map(u64::to_string).collect();
                format!("start:{start}:{}", ids.join(","))
            }
        }
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
        let cursor = Cursor { place: Place::AfterId(7), gap: false };
        let text = cursor.to_text(&method("crm.deal.list"));
        assert_eq!(Cursor::parse(&text, &method("CRM.deal.list")), Some(cursor));
        assert_eq!(Cursor::parse(&text, &method("crm.lead.list")), None);
        assert_eq!(Cursor::parse(&text.replace('7', "8"), &method("crm.deal.list")), None);
    }

    proptest! {
        #[test]
        fn a_cursor_goes_there_and_back(
            number: u64,
            known in proptest::option::of(proptest::collection::vec(any::<u64>(), 0..5)),
            gap: bool,
        ) {
            let place = known.map_or(Place::AfterId(number), |known| Place::Start { start: number, known });
            let cursor = Cursor { place, gap };
            prop_assert_eq!(Cursor::parse(&cursor.to_text(&method("m")), &method("m")), Some(cursor));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = Cursor::parse(&text, &method("m"));
            let _ = Cursor::parse(&format!("{text}.{}", checksum(&text, &method("m"))), &method("m"));
        }
    }
}
