//! What a way to read a list is asked, and what it is given.

use super::cursor::Cursor;
use crate::call::bulk::{command, error_of, BatchAnswer, Commands, LONGEST_BATCH};
use crate::values::error::{Error, Executed, Result};
use crate::values::json::{self, Text};
use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Rows of a page.
pub const PAGE: usize = 50;
/// The rows of a larger one are not told apart: Bitrix24 has no such pages, only lists that come whole.
const LARGEST_PAGE: usize = 1000;
/// Parameters of a list, and conditions in its filter: `max_input_vars` of PHP.
const MOST_PARAMETERS: usize = 1000;

/// No list is longer, and what is reckoned with places in it stays far from a number's end.
pub const FURTHEST: u64 = 1 << 53;

/// A parameter: its name, and its value as it stands.
pub type Parameter<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A way to read a list.
pub trait Paging {
    /// The parameters of the next page, to be asked for on its own: the inside of a JSON object.
    fn alone(&mut self) -> String;
    /// The next pages as a batch's commands, at most so many; `None` where the parameters would not survive in one.
    fn commands(&mut self, method: &str, most: usize) -> Option<Commands>;
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
    /// It looks like the last page, but what is said of the list contradicts the rows: it must not be taken for whole.
    Incomplete,
    /// This is not the way to read this list; what was taken is worth nothing.
    Unfit,
}

/// A page as it was answered.
pub struct RowPage<'a> {
    /// The rows, as they stand.
    list: &'a str,
    /// The list's name in `result`; empty: `result` itself.
    pub place: Cow<'a, str>,
    pub count: usize,
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
    pub fn push(&mut self, row: &str) {
        if self.count > 0 {
            self.text.push(b',');
        }
        self.text.extend(row.as_bytes());
        self.count += 1;
    }
}

impl<'a> RowPage<'a> {
    pub fn of_answer(body: &'a [u8]) -> Result<RowPage<'a>> {
        let text = std::str::from_utf8(body).unwrap_or("{}");
        let parts = json::fields(text, ["result", "next", "total"]);
        let [result, next, total] = parts.map_err(|_| bad_answer("it is not JSON"))?;
        RowPage::of_parts(result, next, total)
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
        let (place, list) = list_of(result.unwrap_or("null"))?;
        let count = json::elements(list).try_fold(0, |count, element| element.map(|_| count + 1));
        let count = count.map_err(|_| bad_answer("it is not JSON"))?;
        Ok(RowPage { list, place, count, next: next.and_then(number), total: total.and_then(number) })
    }

    pub fn rows(&self) -> impl Iterator<Item = &'a str> {
        json::elements(self.list).map_while(std::result::Result::ok)
    }

    /// The same for pages with the same rows.
    pub fn fingerprint(&self) -> u64 {
        let mut text = DefaultHasher::new();
        self.rows().for_each(|row| row.hash(&mut text));
        text.finish()
    }

    /// The IDs of all rows, under this name; `None` where one has none.
    pub fn ids(&self, name: &str) -> Option<Vec<u64>> {
        let ids = self.rows().map(|row| json::field(row, name)?.trim_matches('"').parse().ok());
        (self.count <= LARGEST_PAGE).then(|| ids.collect())?
    }

    /// The same, where they stand in their order, all behind `last`.
    pub fn ids_behind(&self, name: &str, last: u64) -> Option<Vec<u64>> {
        let in_order = |ids: &Vec<u64>| ids.first().is_none_or(|id| *id > last) && ids.is_sorted_by(|a, b| a < b);
        self.ids(name).filter(in_order)
    }
}

/// What follows a page that is not in the order of its IDs. `resumed`: an earlier request has read some of the list so.
pub fn out_of_order(resumed: bool) -> Result<Next> {
    match resumed {
        false => Ok(Next::Unfit),
        true => Err(not_a_list("its rows are not in the order of their IDs")),
    }
}

/// The members of an object that parameters or a filter are; why not.
pub fn members(raw: &str) -> std::result::Result<Vec<Parameter<'_>>, &'static str> {
    let mut members = Vec::new();
    for entry in json::entries(raw) {
        let (name, value) = entry.map_err(|_| "must be an object where \"all\" is set")?;
        if members.len() == MOST_PARAMETERS {
            return Err("has more than 1000 members");
        }
        members.push((name, value.into()));
    }
    Ok(members)
}

/// A place in a list, or how many rows it has, as a number or as a text.
pub fn number(raw: &str) -> Option<u64> {
    raw.trim_matches('"').parse::<u64>().ok().map(|number| number.min(FURTHEST))
}

/// A parameter as it is sent on where the caller's own order or place is kept: in its `select` is what tells rows apart,
/// too.
pub fn told_apart<'a>(
    (key, raw): &'a Parameter,
    is_select: bool,
    needed: impl Iterator<Item = &'static str>,
) -> Parameter<'a> {
    let fields = if is_select { selected(raw, needed).flatten() } else { None };
    (key.as_ref().into(), fields.map_or(raw.as_ref().into(), Cow::from))
}

/// `select` with these fields in it, where it has none of them and not all (`*`); `Some(None)`: it is empty. It may be as long
/// as a request.
pub fn selected(raw: &str, needed: impl Iterator<Item = &'static str>) -> Option<Option<String>> {
    let mut missing: Vec<&str> = needed.collect();
    let mut is_empty = true;
    for field in json::elements(raw) {
        let field = serde_json::from_str::<Text>(field.ok()?).ok()?.0;
        missing.retain(|name| field != *name && field != "*");
        is_empty = false;
    }
    if is_empty {
        return Some(None);
    }
    let mut fields = raw.trim_end().strip_suffix(']')?.to_owned();
    missing.iter().for_each(|name| fields += &format!(",{}", json::quoted(name)));
    Some(Some(fields + "]"))
}

/// A page as a batch's command, which asks the same as the page on its own; `inside`: its parameters.
pub fn packed(method: &str, inside: &str) -> Option<String> {
    let fits = inside.len() <= LONGEST_BATCH;
    fits.then(|| command::of_same_types(method, &format!("{{{inside}}}")))?
}

/// The one list in a result, wherever the method puts it, with its name there.
fn list_of(result: &str) -> Result<(Cow<'_, str>, &str)> {
    if result.starts_with('[') {
        return Ok(("".into(), result));
    }
    let (mut list, mut several) = (None, false);
    for (key, raw) in json::entries(result).map_while(std::result::Result::ok) {
        if key.eq_ignore_ascii_case("hasMore") && raw == "true" {
            return Err(not_a_list("it has more rows, which are not read by \"start\""));
        }
        if raw.starts_with('[') {
            several |= list.replace((key, raw)).is_some();
        }
    }
    match list {
        Some(_) if several => Err(not_a_list("there are several lists in it")),
        Some(list) => Ok(list),
        None => Err(not_a_list("there is no list in it")),
    }
}

/// The IDs of all rows; `None` where one has none, or two have the same: then it is not what tells them apart.
pub fn distinct_ids(page: &RowPage) -> Option<Vec<u64>> {
    let ids = page.ids("ID").or_else(|| page.ids("id"))?;
    (ids.iter().collect::<HashSet<_>>().len() == ids.len()).then_some(ids)
}

/// Why a list is not taken for whole.
pub const MORE_THAN_GIVEN: &str =
    "it counts other rows than it gives; rows may have changed, or this user may not see some: read it again without \"cursor\"";

/// The request is wrong: another try would end in the same way.
pub fn not_a_list(why: &str) -> Error {
    Error::InvalidRequest(format!("\"all\" cannot read this method's answer to its end: {why}"))
}

pub fn bad_answer(why: &str) -> Error {
    Error::BadAnswer { why: why.into(), executed: Executed::Unknown, upstream: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rows_are_the_one_list_in_the_answer() {
        let rows = |result: &str| {
            let answer = format!("{{\"result\":{result}}}");
            RowPage::of_answer(answer.as_bytes()).map(|page| (page.place.into_owned(), page.count))
        };
        assert_eq!(rows("[1,2]"), Ok((String::new(), 2)));
        assert_eq!(rows("[]"), Ok((String::new(), 0)));
        assert_eq!(rows(r#"{"items":[1,2,3],"n":1}"#), Ok(("items".into(), 3)));
        assert!(rows(r#"{"a":[],"b":[]}"#).is_err());
        assert!(rows(r#"{"items":[1],"hasMore":true}"#).is_err());
        assert!(rows(r#"{"a":1}"#).is_err());
        assert!(rows("null").is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(body in "[\\[\\]{}\":,a-z0-9]{0,40}") {
            let _ = RowPage::of_answer(body.as_bytes());
        }
    }
}
