//! `"all": true`: a list method read to its end, by one of two [`Way`]s: [`by_id`] where that is certainly right, else
//! [`by_start`].

mod by_id;
mod by_start;
mod cursor;

pub use cursor::Cursor;

use super::{name, BatchAnswer, Steps, MAX_COMMANDS};
use crate::call::payload::Parameters;
use crate::values::error::{Error, Executed, Result};
use crate::values::json::{self, Member};
use crate::values::method::Method;
use by_id::ById;
use by_start::ByStart;
use serde_json::value::RawValue;
use std::time::Duration;

/// Rows of a page.
const PAGE: usize = 50;
/// Pages of the first batch; how long they take is not known yet.
const FIRST_BATCH: usize = 10;
/// A batch that took longer is followed by a shorter one: Bitrix24 cuts an execution at 60 s.
const LONG_BATCH: Duration = Duration::from_secs(15);
/// How names of methods end that certainly are no lists, and would do harm.
const CHANGES: [&str; 5] = ["add", "update", "set", "delete", "remove"];

/// A way to read a list.
trait Way {
    /// The parameters of the next page, to be asked for on its own.
    fn alone(&mut self) -> Vec<Member>;
    /// The next pages as a batch's commands, at most so many; `None` where the parameters would not survive in one.
    fn commands(&mut self, method: &str, most: usize) -> Option<Vec<String>>;
    /// Takes a page that was asked for, in that order.
    fn take(&mut self, page: &Page, rows: &mut Rows) -> Result<Next>;
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
enum Next {
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
struct Page<'a> {
    rows: Vec<&'a RawValue>,
    next: Option<u64>,
    total: Option<u64>,
}

/// Rows as text between commas.
#[derive(Default)]
struct Rows {
    text: Vec<u8>,
    count: usize,
}

impl Rows {
    fn push(&mut self, row: &RawValue) {
        if self.count > 0 {
            self.text.push(b',');
        }
        self.text.extend(row.get().as_bytes());
        self.count += 1;
    }
}

pub struct Outcome {
    rows: Rows,
    total: Option<u64>,
    /// As text; `None`: this is all.
    cursor: Option<String>,
}

impl Outcome {
    /// The rows as text between commas, and how many they are.
    pub fn rows(&self) -> (&[u8], usize) {
        (&self.rows.text, self.rows.count)
    }

    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Where to go on; `None`: this is all.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// `{"result":[…],"total"?,"complete":true}`, or `"complete":false,"cursor":C`, in parts.
    pub fn into_json(self) -> Vec<Vec<u8>> {
        let total = self.total.map(|total| format!(",\"total\":{total}")).unwrap_or_default();
        let end = match &self.cursor {
            None => format!("]{total},\"complete\":true}}"),
            Some(cursor) => format!("]{total},\"complete\":false,\"cursor\":{}}}", json::quoted(cursor)),
        };
        vec![b"{\"result\":[".to_vec(), self.rows.text, end.into_bytes()]
    }
}

/// Reads on from `cursor` until the end, or until time or size runs out.
pub fn read(steps: &mut Steps, method: &Method, raw_params: &str, cursor: Option<Cursor>) -> Result<Outcome> {
    let canonical = method.canonical();
    if CHANGES.iter().any(|end| canonical.ends_with(&format!(".{end}"))) {
        return Err(Error::InvalidRequest(format!("\"all\" reads lists, and {canonical} changes something")));
    }
    let params = members(raw_params)
        .map_err(|_| Error::InvalidRequest("\"params\" must be an object where \"all\" is set".into()))?;
    let mut way: Box<dyn Way> = match ById::of(method, &params, cursor.as_ref()) {
        Some(by_id) => Box::new(by_id),
        None => Box::new(ByStart::new(&params, cursor)?),
    };
    let mut reader = Reader { steps, method, rows: Rows::default(), batch: FIRST_BATCH };
    let mut next = reader.page(&mut *way)?;
    if next == Next::Unfit {
        way = Box::new(ByStart::new(&params, None)?);
        next = reader.page(&mut *way)?;
    }
    while next != Next::End && reader.may_go_on(&*way) {
        next = match reader.pages(&mut *way) {
            Ok(next) => next,
            // What was read so far is worth having; who goes on meets the error first.
            Err(error) if is_passing(&error) => break,
            Err(error) => return Err(error),
        };
        reader.steps.progress(reader.rows.count, way.total().and_then(|total| usize::try_from(total).ok()));
    }
    let cursor = (next != Next::End).then(|| way.cursor().to_text(method));
    Ok(Outcome { rows: reader.rows, total: way.total(), cursor })
}

/// Whether to answer what there is: reading changes nothing, so that a lost answer is as good as none.
fn is_passing(error: &Error) -> bool {
    error.executed() == Some(Executed::Unknown)
        || matches!(
            error,
            Error::RateLimited { .. }
                | Error::MethodBlocked { .. }
                | Error::RefreshPending { .. }
                | Error::Unreachable { .. }
                | Error::Timeout { .. }
                | Error::Bitrix24(_)
        )
}

struct Reader<'r, 'a> {
    steps: &'r mut Steps<'a>,
    method: &'r Method,
    rows: Rows,
    /// Pages of a batch.
    batch: usize,
}

impl Reader<'_, '_> {
    fn held(&self, way: &dyn Way) -> usize {
        self.rows.text.len() + way.held()
    }

    fn may_go_on(&self, way: &dyn Way) -> bool {
        self.steps.has_time() && self.steps.has_room(self.held(way))
    }

    /// One page on its own.
    fn page(&mut self, way: &mut dyn Way) -> Result<Next> {
        let parameters = Parameters::from_members(&way.alone());
        let held = self.held(way);
        let body = self.steps.single(self.method, parameters, held)?.body;
        way.take(&Page::of_answer(&body)?, &mut self.rows)
    }

    /// As many pages as a batch takes.
    fn pages(&mut self, way: &mut dyn Way) -> Result<Next> {
        let left = way.pages_left().map_or(MAX_COMMANDS, |left| usize::try_from(left).unwrap_or(MAX_COMMANDS));
        let Some(commands) = way.commands(&self.method.canonical(), left.clamp(1, self.batch)) else {
            return self.page(way);
        };
        let held = self.held(way);
        let body = self.steps.batch(&commands, false, held)?.body;
        self.batch = match self.steps.last_took() {
            took if took > LONG_BATCH => (self.batch / 2).max(2),
            took if took > LONG_BATCH / 5 => self.batch,
            _ => (self.batch * 5).min(MAX_COMMANDS),
        };
        let answer = BatchAnswer::parse(&body).ok_or_else(|| bad_answer("it is not that of a batch"))?;
        for i in 0..commands.len() {
            match way.take(&Page::of_batch(&answer, &name(i))?, &mut self.rows)? {
                Next::Counts => {}
                next => return Ok(next),
            }
        }
        Ok(Next::Discard)
    }
}

impl<'a> Page<'a> {
    fn of_answer(body: &'a [u8]) -> Result<Page<'a>> {
        let text = std::str::from_utf8(body).unwrap_or("{}");
        let entries = json::entries(text).map_err(|_| bad_answer("it is not JSON"))?;
        let field = |name: &str| entries.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| raw.get());
        Page::of_parts(field("result"), field("next"), field("total"))
    }

    fn of_batch(answer: &BatchAnswer<'a>, name: &str) -> Result<Page<'a>> {
        if let Some(error) = answer.errors.get(name) {
            return Err(Error::Bitrix24(super::error_of(error)));
        }
        let part = |map: &std::collections::HashMap<String, &'a str>| map.get(name).copied();
        let result = part(&answer.results).ok_or_else(|| bad_answer("a page is missing in it"))?;
        Page::of_parts(Some(result), part(&answer.nexts), part(&answer.totals))
    }

    fn of_parts(result: Option<&'a str>, next: Option<&str>, total: Option<&str>) -> Result<Page<'a>> {
        let number = |raw: &str| raw.trim_matches('"').parse().ok();
        Ok(Page {
            rows: rows_of(result.unwrap_or("null"))?,
            next: next.and_then(number),
            total: total.and_then(number),
        })
    }
}

fn members(raw: &str) -> std::result::Result<Vec<Member>, serde_json::Error> {
    Ok(json::entries(raw)?.into_iter().map(|(key, raw)| (key.into_owned(), raw.get().to_owned())).collect())
}

/// The one list in a result, wherever the method puts it.
fn rows_of(result: &str) -> Result<Vec<&RawValue>> {
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
fn not_a_list(why: &str) -> Error {
    Error::InvalidRequest(format!("\"all\" cannot read this method's answer to its end: {why}"))
}

fn bad_answer(why: &str) -> Error {
    Error::BadAnswer { why: why.into(), executed: Executed::Unknown, upstream: None }
}

/// A row's ID: a number, or a text of digits.
fn id_of(row: &RawValue, name: &str) -> Option<u64> {
    super::field(row.get(), name)?.trim_matches('"').parse().ok()
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
            let _ = Page::of_answer(body.as_bytes());
        }
    }
}
