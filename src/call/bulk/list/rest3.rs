//! Lists of REST 3.0, each page a call of its own (its batch is all or nothing): by ID ([`ByKey`]), or by `pagination` where
//! the caller brings an order, a pagination or a filter on ID of its own ([`ByOffset`]).
//!
//! There is neither `next` nor `total`, and some methods give fewer rows than they are asked for: the end is a page that is
//! smaller than the largest so far.

use super::cursor::{Cursor, Place};
use super::paging::{
    distinct_ids, number, out_of_order, selected, told_apart, Next, Paging, Parameter, RowPage, Rows, FURTHEST,
};
use crate::call::bulk::Commands;
use crate::values::error::{Error, Result};
use crate::values::json;
use std::collections::HashSet;

/// The most rows that a page may have.
const MOST: u64 = 1000;

pub struct ByKey<'a> {
    /// The caller's parameters without those that paging sets.
    others: Vec<Parameter<'a>>,
    /// The conditions of the caller's filter, between commas.
    filter: &'a str,
    /// The ID of the last row that was read.
    last: u64,
    /// An earlier request has read some of it.
    resumed: bool,
    largest: usize,
}

impl<'a> ByKey<'a> {
    /// `None` where this way is not certainly right.
    pub fn of(params: &'a [Parameter<'a>], cursor: Option<&Cursor>) -> Option<ByKey<'a>> {
        let last = match cursor.map(|cursor| &cursor.place) {
            None => 0,
            Some(Place::AfterId(id)) => *id,
            Some(_) => return None,
        };
        let (mut others, mut filter) = (Vec::new(), "");
        for (key, raw) in params {
            match key.as_ref() {
                "order" | "pagination" => return None,
                "filter" => filter = conditions(raw)?,
                "select" => {
                    let fields = selected(raw, std::iter::once("id"))?;
                    others.extend(fields.map(|fields| (key.as_ref().into(), fields.into())));
                }
                _ => others.push((key.as_ref().into(), raw.as_ref().into())),
            }
        }
        Some(ByKey { others, filter, last, resumed: cursor.is_some(), largest: 0 })
    }
}

impl Paging for ByKey<'_> {
    fn alone(&mut self) -> String {
        let mut page = String::new();
        self.others.iter().for_each(|(name, value)| json::push_member(&mut page, name, value));
        let comma = if self.filter.is_empty() { "" } else { "," };
        let filter = format!("[{}{comma}[\"id\",\">\",{}]]", self.filter, self.last);
        json::push_member(&mut page, "filter", &filter);
        json::push_member(&mut page, "order", "{\"id\":\"ASC\"}");
        json::push_member(&mut page, "pagination", &format!("{{\"limit\":{MOST}}}"));
        page
    }

    fn commands(&mut self, _: &str, _: usize) -> Option<Commands> {
        None
    }

    fn take(&mut self, page: &RowPage, rows: &mut Rows) -> Result<Next> {
        let Some(ids) = page.ids_behind("id", self.last) else { return out_of_order(self.resumed) };
        page.rows().for_each(|row| rows.push(row));
        self.last = ids.last().copied().unwrap_or(self.last);
        Ok(after(page.count, &mut self.largest))
    }

    fn pages_left(&self) -> Option<u64> {
        None
    }

    fn total(&self) -> Option<u64> {
        None
    }

    fn cursor(&self) -> Cursor {
        Cursor { place: Place::AfterId(self.last), gap: false }
    }
}

/// What follows a page with so many rows.
fn after(rows: usize, largest: &mut usize) -> Next {
    *largest = rows.max(*largest);
    if rows == 0 || rows < *largest {
        Next::End
    } else {
        Next::Counts
    }
}

/// The inside of a filter's list, whose conditions all must hold; `None` where one may speak of the ID, or it is no such list.
/// It may be as long as a request.
fn conditions(raw: &str) -> Option<&str> {
    let raw = raw.trim_matches(json::SPACE);
    let list = match raw.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(inside) => inside.trim_matches(json::SPACE).is_empty().then_some("[]")?,
        None => raw,
    };
    for condition in json::elements(list) {
        condition.ok().filter(|condition| condition.starts_with(['[', '{']))?;
    }
    let names_id = list.as_bytes().windows(4).any(|text| text.eq_ignore_ascii_case(b"\"id\""));
    let inside = list.strip_prefix('[')?.strip_suffix(']')?;
    (!names_id).then_some(inside.trim_matches(json::SPACE))
}

/// Each page begins with the last row of the one before: where that is not there, rows were deleted, and those behind have
/// moved to where reading has been.
pub struct ByOffset<'a> {
    /// The caller's parameters without `pagination`.
    others: Vec<Parameter<'a>>,
    limit: u64,
    /// Where the list begins, where unread rows do, and where the page was asked for.
    begin: u64,
    next: u64,
    from: u64,
    /// IDs that were read; `None`: rows cannot be told apart.
    seen: Option<HashSet<u64>>,
    last: Option<u64>,
    /// The fingerprint of the last page.
    last_text: Option<u64>,
    resumed: bool,
    largest: usize,
}

impl<'a> ByOffset<'a> {
    pub fn new(params: &'a [Parameter<'a>], cursor: Option<Cursor>) -> Result<ByOffset<'a>> {
        let own = params.iter().find(|(key, _)| key == "pagination").map_or("{}", |(_, raw)| raw);
        let numbers = json::fields(own, ["limit", "offset", "page"]).unwrap_or_default();
        let [limit, offset, page] = numbers.map(|raw| raw.and_then(number));
        let limit = limit.unwrap_or(MOST).clamp(1, MOST);
        let begin = page.map_or(offset.unwrap_or(0), |page| page.saturating_sub(1).saturating_mul(limit));
        let begin = begin.min(FURTHEST);
        let (next, last) = match cursor.map(|cursor| cursor.place) {
            None => (begin, None),
            Some(Place::Start { start, known }) => match known.last() {
                Some(last) => (start.min(FURTHEST) + 1, Some(*last)),
                None => (start.min(FURTHEST), None),
            },
            Some(_) => return Err(Error::InvalidRequest("\"cursor\" does not belong to this request".into())),
        };
        let others = params.iter().filter(|(key, _)| key != "pagination");
        let others = others.map(|parameter| told_apart(parameter, parameter.0 == "select", std::iter::once("id")));
        Ok(ByOffset {
            others: others.collect(),
            limit,
            begin,
            next,
            from: next,
            seen: Some(last.into_iter().collect()),
            last,
            last_text: None,
            resumed: last.is_some(),
            largest: 0,
        })
    }

    /// How many rows at the page's start were read before; `None`: those behind have moved there, unseen.
    fn known(&mut self, ids: &[u64]) -> Option<usize> {
        let seen = self.seen.as_ref().filter(|seen| !seen.is_empty());
        let Some(seen) = seen else { return Some(0) };
        ids.iter().rposition(|id| seen.contains(id)).map(|at| at + 1)
    }
}

impl Paging for ByOffset<'_> {
    fn alone(&mut self) -> String {
        let overlap = self.seen.as_ref().is_some_and(|seen| !seen.is_empty());
        self.from = if overlap { self.next.saturating_sub(1).max(self.begin) } else { self.next };
        let mut page = String::new();
        self.others.iter().for_each(|(name, value)| json::push_member(&mut page, name, value));
        let pagination = format!("{{\"limit\":{},\"offset\":{}}}", self.limit, self.from);
        json::push_member(&mut page, "pagination", &pagination);
        page
    }

    fn commands(&mut self, _: &str, _: usize) -> Option<Commands> {
        None
    }

    fn take(&mut self, page: &RowPage, rows: &mut Rows) -> Result<Next> {
        let ids = distinct_ids(page);
        let text = page.fingerprint();
        let repeated = self.last_text.replace(text) == Some(text);
        if ids.is_none() {
            self.seen = None;
            if repeated {
                // The method does not know `pagination`.
                return Ok(Next::End);
            }
        }
        let known = match &ids {
            Some(ids) => self.known(ids),
            // The row before, of which nothing is known but its place.
            None => Some(usize::from(self.from < self.next)),
        };
        let Some(known) = known.or_else(|| (self.from == self.begin && !self.resumed).then_some(0)) else {
            if self.from == self.begin {
                return Err(Error::InvalidRequest(
                    "the list has changed too much since this \"cursor\" was given: read it again without one".into(),
                ));
            }
            self.next = self.next.saturating_sub((self.largest as u64).max(1)).max(self.begin + 1);
            return Ok(Next::Discard);
        };
        page.rows().skip(known).for_each(|row| rows.push(row));
        if let (Some(seen), Some(ids)) = (&mut self.seen, &ids) {
            seen.extend(ids);
        }
        self.last = ids.and_then(|ids| ids.last().copied());
        self.next = self.from + page.count as u64;
        Ok(match after(page.count, &mut self.largest) {
            // A page of one row that was known is one behind the end.
            Next::Counts if known == page.count => Next::End,
            next => next,
        })
    }

    fn pages_left(&self) -> Option<u64> {
        None
    }

    fn total(&self) -> Option<u64> {
        None
    }

    fn cursor(&self) -> Cursor {
        let place = match self.last {
            Some(last) => Place::Start { start: self.next.saturating_sub(1), known: vec![last] },
            None => Place::Start { start: self.next, known: Vec::new() },
        };
        Cursor { place, gap: false }
    }

    fn held(&self) -> usize {
        self.seen.as_ref().map_or(0, |seen| seen.capacity() * 9)
    }
}

#[cfg(test)]
mod tests {
    use super::super::paging::members;
    use super::*;

    fn answered(way: &mut dyn Paging, ids: impl IntoIterator<Item = u64>, rows: &mut Rows) -> Result<Next> {
        let items: Vec<String> = ids.into_iter().map(|id| format!("{{\"id\":{id}}}")).collect();
        let answer = format!("{{\"result\":{{\"items\":[{}]}}}}", items.join(","));
        way.take(&RowPage::of_answer(answer.as_bytes()).unwrap(), rows)
    }

    #[test]
    fn our_condition_stands_beside_the_callers() {
        let page = |params: &str| ByKey::of(&members(params).unwrap(), None).map(|mut way| way.alone());
        assert_eq!(
            page(r#"{"filter":[["title","=","x"]],"select":["title"]}"#).unwrap(),
            r#""select":["title","id"],"filter":[["title","=","x"],["id",">",0]],"order":{"id":"ASC"},"pagination":{"limit":1000}"#
        );
        for fast in
            [r#"{"filter":[]}"#, r#"{"filter":{}}"#, r#"{"filter":[{"logic":"or","conditions":[["a","=",1]]}]}"#]
        {
            assert!(page(fast).is_some(), "{fast}");
        }
        for slow in [
            r#"{"filter":[["id",">",5]]}"#,
            r#"{"filter":[{"logic":"or","conditions":[["ID","=",1]]}]}"#,
            r#"{"filter":["title","=","x"]}"#,
            r#"{"filter":{"a":1}}"#,
            r#"{"order":{"title":"ASC"}}"#,
            r#"{"pagination":{"limit":10}}"#,
        ] {
            assert!(page(slow).is_none(), "{slow}");
        }
    }

    #[test]
    fn the_end_is_a_page_smaller_than_the_largest() {
        let mut way = ByKey::of(&[], None).unwrap();
        let mut rows = Rows::default();
        assert_eq!(answered(&mut way, 1..=20, &mut rows), Ok(Next::Counts));
        assert_eq!(answered(&mut way, 21..=40, &mut rows), Ok(Next::Counts));
        assert_eq!(answered(&mut way, 41..=59, &mut rows), Ok(Next::End));
        assert_eq!(rows.count, 59);
        assert_eq!(answered(&mut ByKey::of(&[], None).unwrap(), [], &mut rows), Ok(Next::End));
        assert_eq!(answered(&mut ByKey::of(&[], None).unwrap(), [2, 1], &mut rows), Ok(Next::Unfit));
    }

    #[test]
    fn a_method_that_does_not_know_pagination_is_read_once() {
        let mut way = ByOffset::new(&[], None).unwrap();
        let mut rows = Rows::default();
        for next in [Next::Counts, Next::End] {
            let page = RowPage::of_answer(br#"{"result":{"items":[{"name":"a"},{"name":"b"}]}}"#).unwrap();
            assert_eq!(way.take(&page, &mut rows), Ok(next));
        }
        assert_eq!(rows.count, 2);
        let mut way = ByOffset::new(&[], None).unwrap();
        for next in [Next::Counts, Next::End] {
            way.alone();
            assert_eq!(answered(&mut way, 1..=2, &mut rows), Ok(next));
        }
        assert_eq!(rows.count, 4);
    }

    #[test]
    fn a_page_begins_with_the_last_row_of_the_one_before() {
        let params = members(r#"{"pagination":{"limit":10}}"#).unwrap();
        let (mut way, mut rows) = (ByOffset::new(&params, None).unwrap(), Rows::default());
        let mut asked = |way: &mut ByOffset, offset: u64, ids: std::ops::RangeInclusive<u64>| {
            assert_eq!(way.alone(), format!("\"pagination\":{{\"limit\":10,\"offset\":{offset}}}"));
            answered(way, ids, &mut rows).unwrap()
        };
        assert_eq!(asked(&mut way, 0, 1..=10), Next::Counts);
        assert_eq!(asked(&mut way, 9, 10..=19), Next::Counts);
        // Three were deleted.
        assert_eq!(asked(&mut way, 18, 22..=24), Next::Discard);
        assert_eq!(asked(&mut way, 8, 12..=21), Next::Counts);
        assert_eq!(asked(&mut way, 17, 21..=24), Next::End);
        assert_eq!(rows.count, 24);
        assert_eq!(way.cursor().place, Place::Start { start: 20, known: vec![24] });
    }
}
