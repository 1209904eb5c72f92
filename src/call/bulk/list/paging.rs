//! What a way to read a list is asked, and what it is given.

use super::cursor::Cursor;
use crate::call::bulk::{error_of, BatchAnswer};
use crate::values::error::{Error, Executed, Result};
use crate::values::json::{self, Member};
use serde_json::value::RawValue;

/// Rows of a page.
pub const PAGE: usize = 50;
/// A way to read a list.
pub trait Paging {
    /// The parameters of the next page, to be asked for on its own.
    fn alone(&mut self) -> Vec<Member>;
    /// The next pages as a batch's commands, at most so many; `None` where the parameters would not survive in one.
    fn commands(&mut self, method: &str, most: usize) -> Option<Vec<String>>;
    /// Takes a page that was asked for, in that order.
    fn take(&mut self, page: &RowPage, rows: &mut Rows) -> Result<Next>;
    fn pages_left(&self) -> Option<u64>;
    fn total(&self) -> Option<u64>;
    /// Where another request goes on.
    fn cursor(&self) -> Cursor;
    /// Bytes of memory, beside the rows.
    fn held(&self) -> usize {
        0
    }
}

/// What is to be done behind a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next page of the same batch counts.
    Counts,
    /// It does not, but there are more.
    Discard,
    /// This was the last page.
    End,
    /// This is not the way to read this list. Nothing was taken.
    Unfit,
}

/// A page as it was answered.
pub struct RowPage<'a> {
    pub rows: Vec<&'a RawValue>,
    pub next: Option<u64>,
    pub total: Option<u64>,
}

/// Rows as text between commas.
#[derive(Default)]
pub struct Rows {
    pub text: Vec<u8>,
    pub count: usize,
}

impl Rows {
    pub fn push(&mut self, row: &RawValue) {
        if self.count > 0 {
            self.text.push(b',');
        }
        self.text.extend(row.get().as_bytes());
        self.count += 1;
    }
}

impl<'a> RowPage<'a> {
    pub fn of_answer(body: &'a [u8]) -> Result<RowPage<'a>> {
        let text = std::str::from_utf8(body).unwrap_or("{}");
        let entries = json::entries(text).map_err(|_| bad_answer("it is not JSON"))?;
        let field = |name: &str| json::member(&entries, name);
        RowPage::of_parts(field("result"), field("next"), field("total"))
    }

    pub fn of_batch(answer: &BatchAnswer<'a>, name: &str) -> Result<RowPage<'a>> {
        if let Some(error) = answer.errors.get(name) {
            return Err(Error::Bitrix24(error_of(error)));
        }
        let part = |map: &std::collections::HashMap<String, &'a str>| map.get(name).copied();
        let result = part(&answer.results).ok_or_else(|| bad_answer("a page is missing in it"))?;
        RowPage::of_parts(Some(result), part(&answer.nexts), part(&answer.totals))
    }

    fn of_parts(result: Option<&'a str>, next: Option<&str>, total: Option<&str>) -> Result<RowPage<'a>> {
        let number = |raw: &str| raw.trim_matches('"').parse().ok();
        Ok(RowPage {
            rows: rows_of(result.unwrap_or("null"))?,
            next: next.and_then(number),
            total: total.and_then(number),
        })
    }
}

pub fn members(raw: &str) -> std::result::Result<Vec<Member>, serde_json::Error> {
    Ok(json::entries(raw)?.into_iter().map(|(key, raw)| (key.into_owned(), raw.get().to_owned())).collect())
}

/// The one list in a result, wherever the method puts it.
pub fn rows_of(result: &str) -> Result<Vec<&RawValue>> {
    let list = |raw| serde_json::from_str(raw).map_err(|_| bad_answer("it is not JSON"));
    if result.starts_with('[') {
        return list(result);
    }
    let entries = json::entries(result).unwrap_or_default();
    if entries.iter().any(|(key, raw)| key.eq_ignore_ascii_case("hasMore") && raw.get() == "true") {
        return Err(not_a_list("it has more rows, which are not read by \"start\""));
    }
    let mut lists = entries.iter().filter(|(_, raw)| raw.get().starts_with('['));
    match (lists.next(), lists.next()) {
        (Some((_, raw)), None) => list(raw.get()),
        (None, _) => Err(not_a_list("there is no list in it")),
        (Some(_), Some(_)) => Err(not_a_list("there are several lists in it")),
    }
}

/// The request is wrong: another try would end in the same way.
pub fn not_a_list(why: &str) -> Error {
    Error::InvalidRequest(format!("\"all\" cannot read this method's answer to its end: {why}"))
}

pub fn bad_answer(why: &str) -> Error {
    Error::BadAnswer { why: why.into(), executed: Executed::Unknown, upstream: None }
}

/// A row's ID: a number, or a text of digits.
pub fn id_of(row: &RawValue, name: &str) -> Option<u64> {
    json::field(row.get(), name)?.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rows_are_the_one_list_in_the_answer() {
        let count = |result: &str| rows_of(result).map(|rows| rows.len());
        assert_eq!(count("[1,2]"), Ok(2));
        assert_eq!(count("[]"), Ok(0));
        assert_eq!(count(r#"{"items":[1,2,3],"n":1}"#), Ok(3));
        assert!(count(r#"{"a":[],"b":[]}"#).is_err());
        assert!(count(r#"{"items":[1],"hasMore":true}"#).is_err());
        assert!(count(r#"{"a":1}"#).is_err());
        assert!(count("null").is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(body in "[\\[\\]{}\":,a-z0-9]{0,40}") {
            let _ = RowPage::of_answer(body.as_bytes());
        }
    }
}
