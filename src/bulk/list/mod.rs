//! `"all": true`: a list method read to its end.
//!
//! The fast way orders by ID and asks for what lies behind the last one (`>ID`, `start=-1`): rows that are added or deleted
//! meanwhile shift nothing. Its pages are chained in a batch by `$result`, which to Bitrix24 is an empty filter where there
//! is nothing to refer to; so a page behind a short one is discarded. It is taken only for methods that are known to allow it
//! and requests that do not bring an order, a start or a filter on ID of their own. All others are paged by `start`.

use super::{name, pack, BatchAnswer, Steps, MAX_COMMANDS};
use crate::error::{Error, Executed, Result, Upstream};
use crate::json::{self, Member};
use crate::method::Method;
use crate::relay::Parameters;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Rows of a page.
const PAGE: usize = 50;
/// Pages of the first batch; the list may be shorter than it seems.
const FIRST_BATCH: usize = 10;
/// A batch that took longer is followed by a shorter one: Bitrix24 cuts an execution at 60 s.
const LONG_BATCH: Duration = Duration::from_secs(15);

/// Where reading goes on. Callers see it as an opaque text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    AfterId(u64),
    Start(u64),
}

impl Cursor {
    pub fn parse(text: &str) -> Option<Cursor> {
        let (kind, number) = text.split_once(':')?;
        let number = number.parse().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit()))?;
        match kind {
            "id" => Some(Cursor::AfterId(number)),
            "start" => Some(Cursor::Start(number)),
            _ => None,
        }
    }

    fn to_text(self) -> String {
        match self {
            Cursor::AfterId(id) => format!("id:{id}"),
            Cursor::Start(start) => format!("start:{start}"),
        }
    }
}

/// How a method that allows the fast way names things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Family {
    /// The ID in filter, order, select and rows.
    id: &'static str,
    /// Where the rows are in `result`; empty: `result` itself.
    rows: &'static str,
}

fn family(method: &Method) -> Option<Family> {
    match method.canonical().as_str() {
        "crm.deal.list" | "crm.lead.list" | "crm.contact.list" | "crm.company.list" | "crm.quote.list" => {
            Some(Family { id: "ID", rows: "" })
        }
        "crm.item.list" => Some(Family { id: "id", rows: "items" }),
        _ => None,
    }
}

pub struct Outcome {
    /// The rows as text between commas.
    rows: Vec<u8>,
    pub count: usize,
    total: Option<String>,
    cursor: Option<Cursor>,
}

impl Outcome {
    /// `{"result":[…],"total"?,"complete":true}`, or `"complete":false,"cursor":C`.
    pub fn to_json(&self, head: &[u8], tail: u8) -> Vec<u8> {
        let total = self.total.as_ref().map(|total| format!(",\"total\":{total}")).unwrap_or_default();
        let end = match self.cursor {
            None => format!("]{total},\"complete\":true}}"),
            Some(cursor) => format!("]{total},\"complete\":false,\"cursor\":{}}}", json::quoted(&cursor.to_text())),
        };
        [head, b"{\"result\":[", &self.rows, end.as_bytes(), &[tail]].concat()
    }

    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    pub fn rows(&self) -> &[u8] {
        &self.rows
    }
}

/// Reads on from `cursor` until the end, or until time or size runs out.
pub fn read(steps: &mut Steps, method: &Method, raw_params: &str, cursor: Option<Cursor>) -> Result<Outcome> {
    let mut reader = Reader::new(method, raw_params, cursor)?;
    reader.first_page(steps)?;
    while let Some(position) = reader.position {
        if !steps.may_go_on(reader.rows.len()) {
            break;
        }
        let before = reader.count;
        match reader.next_pages(steps, position) {
            Ok(()) => {}
            // What was read so far is worth having; who goes on meets the error first.
            Err(error) if before > 0 && is_passing(&error) => break,
            Err(error) => return Err(error),
        }
        steps.progress(reader.count, reader.total.as_deref().and_then(|total| total.parse().ok()));
    }
    Ok(Outcome { rows: reader.rows, count: reader.count, total: reader.total, cursor: reader.position })
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

struct Reader<'a> {
    method: &'a Method,
    /// The caller's parameters without those that paging sets.
    others: Vec<Member>,
    /// The caller's filter, as members.
    filter: Vec<Member>,
    /// `None` = by `start`.
    family: Option<Family>,
    /// Where to go on; `None` at the end.
    position: Option<Cursor>,
    /// How far `start` moves with each page.
    stride: u64,
    batch: usize,
    rows: Vec<u8>,
    count: usize,
    /// IDs read by `start`: rows may move between pages.
    seen: HashSet<String>,
    total: Option<String>,
}

/// A page as it was answered.
struct Page<'a> {
    rows: Vec<&'a RawValue>,
    next: Option<u64>,
    total: Option<&'a str>,
}

impl<'a> Reader<'a> {
    fn new(method: &'a Method, raw_params: &str, cursor: Option<Cursor>) -> Result<Reader<'a>> {
        let entries = json::entries(raw_params)
            .map_err(|_| Error::InvalidRequest("\"params\" must be an object where \"all\" is set".into()))?;
        let params: Vec<Member> = entries.iter().map(|(key, raw)| (key.to_string(), raw.get().to_owned())).collect();
        let mut reader = Reader {
            method,
            others: params.clone(),
            filter: Vec::new(),
            family: None,
            position: cursor,
            stride: PAGE as u64,
            batch: FIRST_BATCH,
            rows: Vec::new(),
            count: 0,
            seen: HashSet::new(),
            total: None,
        };
        if let Some(family) = family(method).filter(|_| !matches!(cursor, Some(Cursor::Start(_)))) {
            if let Some((others, filter)) = by_id(&params, family) {
                reader.family = Some(family);
                reader.others = others;
                reader.filter = filter;
            }
        }
        if reader.family.is_none() {
            if let Some(Cursor::AfterId(_)) = cursor {
                return Err(Error::InvalidRequest("\"cursor\" does not belong to this request".into()));
            }
            let own_start = params.iter().find(|(key, _)| key == "start").map(|(_, raw)| raw.trim_matches('"'));
            let own_start = own_start.and_then(|start| start.parse().ok()).unwrap_or(0);
            reader.others.retain(|(key, _)| key != "start");
            reader.position = Some(cursor.unwrap_or(Cursor::Start(own_start)));
        }
        Ok(reader)
    }

    /// The parameters of a page; `behind` is a JSON value, or a reference to an earlier page.
    fn page_by_id(&self, family: Family, behind: Option<&str>, start: &str) -> Vec<Member> {
        let mut filter = self.filter.clone();
        filter.extend(behind.map(|id| (format!(">{}", family.id), id.to_owned())));
        let mut members = self.others.clone();
        if !filter.is_empty() {
            members.push(("filter".into(), json::object(&filter)));
        }
        members.push(("order".into(), json::object(&[(family.id.into(), "\"ASC\"".into())])));
        members.push(("start".into(), start.into()));
        members
    }

    fn page_by_start(&self, start: u64) -> Vec<Member> {
        let mut members = self.others.clone();
        members.push(("start".into(), start.to_string()));
        members
    }

    fn first_page(&mut self, steps: &mut Steps) -> Result<()> {
        let members = match (self.family, self.position) {
            (Some(family), None) => self.page_by_id(family, None, "0"),
            (Some(family), Some(Cursor::AfterId(id))) => self.page_by_id(family, Some(&id.to_string()), "-1"),
            (_, Some(Cursor::Start(start))) => self.page_by_start(start),
            (None, _) => self.page_by_start(0),
        };
        let first = self.position.is_none() || matches!(self.position, Some(Cursor::Start(_)));
        let body = answer_of(steps.single(self.method, Parameters::from_members(&members), 0)?)?;
        let page = page_of(&body)?;
        self.total = page.total.map(str::to_owned);
        if let (Some(family), Some(next)) = (self.family, page.next) {
            // Not what is known of this method: pages of another size, or rows without an ID.
            if page.rows.len() != PAGE || last_id(&page.rows, family).is_none() {
                self.family = None;
                self.others = members.into_iter().filter(|(key, _)| key != "start").collect();
                self.position = Some(Cursor::Start(0));
                return self.take(&page, Some(next), 0);
            }
        }
        match self.family {
            Some(family) => self.take_by_id(&page, family).map(|_| ()),
            None => {
                let start = match self.position {
                    Some(Cursor::Start(start)) => start,
                    _ => 0,
                };
                debug_assert!(first);
                self.take(&page, page.next, start)
            }
        }
    }

    /// As many pages as a batch takes.
    fn next_pages(&mut self, steps: &mut Steps, position: Cursor) -> Result<()> {
        let count = self.pages_left().clamp(1, self.batch);
        let commands = match (self.family, position) {
            (Some(family), Cursor::AfterId(id)) => self.chained(family, id, count),
            (_, Cursor::Start(start)) => (0..count as u64)
                .map(|i| {
                    pack::command(self.method.as_str(), &json::object(&self.page_by_start(start + i * self.stride)))
                })
                .collect(),
            (None, Cursor::AfterId(_)) => None,
        };
        let Some(commands) = commands else { return self.first_page(steps) };
        let started = Instant::now();
        let body = answer_of(steps.batch(&commands, false, self.rows.len())?)?;
        self.batch = if started.elapsed() > LONG_BATCH { (self.batch / 2).max(1) } else { MAX_COMMANDS };
        let answer = BatchAnswer::parse(&body).ok_or_else(|| not_a_list("its answer is not that of a batch"))?;
        for i in 0..commands.len() {
            if let Some(error) = answer.errors.get(&name(i)) {
                let text = |field: &str| {
                    super::field(error, field).and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default()
                };
                let upstream =
                    Upstream { status: 200, error: text("error"), error_description: text("error_description") };
                return Err(Error::Bitrix24(upstream));
            }
            let result = answer.results.get(&name(i)).ok_or_else(|| not_a_list("a page is missing in it"))?;
            let next = answer.nexts.get(&name(i)).and_then(|next| next.parse().ok());
            let page = Page { rows: rows_of(result)?, next, total: None };
            let goes_on = match (self.family, self.position) {
                (Some(family), _) => self.take_by_id(&page, family)?,
                (None, Some(Cursor::Start(start))) => {
                    self.take(&page, page.next, start)?;
                    self.position.is_some()
                }
                (None, _) => false,
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Each page behind the last row of the one before.
    fn chained(&self, family: Family, id: u64, count: usize) -> Option<Vec<String>> {
        let list = if family.rows.is_empty() { String::new() } else { format!("[{}]", family.rows) };
        let first =
            pack::command(self.method.as_str(), &json::object(&self.page_by_id(family, Some(&id.to_string()), "-1")))?;
        let bare = pack::command(self.method.as_str(), &json::object(&self.page_by_id(family, None, "-1")))?;
        let chained = (1..count).map(|i| {
            let last = format!("$result[{}]{list}[{}][{}]", name(i - 1), PAGE - 1, family.id);
            pack::with_field(&bare, &format!("filter[>{}]", family.id), &last)
        });
        Some(std::iter::once(first).chain(chained).collect())
    }

    fn pages_left(&self) -> usize {
        match self.total.as_deref().and_then(|total| total.parse::<usize>().ok()) {
            // One more, for rows that were added.
            Some(total) => total.saturating_sub(self.count).div_ceil(PAGE) + 1,
            None => MAX_COMMANDS,
        }
    }

    /// Takes a page of the fast way; says whether the next one counts.
    fn take_by_id(&mut self, page: &Page, family: Family) -> Result<bool> {
        for row in &page.rows {
            let id = id_of(row, family.id).ok_or_else(|| not_a_list("a row has no ID"))?;
            if let Some(Cursor::AfterId(last)) = self.position {
                if id <= last {
                    return Err(not_a_list("its rows are not in the order of their IDs"));
                }
            }
            self.push(row);
            self.position = Some(Cursor::AfterId(id));
        }
        let whole = page.rows.len() == PAGE;
        if !whole {
            self.position = None;
        }
        Ok(whole)
    }

    /// Takes a page that began at `start`.
    fn take(&mut self, page: &Page, next: Option<u64>, start: u64) -> Result<()> {
        for row in &page.rows {
            let id = id_of(row, "ID").or_else(|| id_of(row, "id"));
            if id.is_none_or(|id| self.seen.insert(id.to_string())) {
                self.push(row);
            }
        }
        self.position = match next {
            Some(next) if next > start => {
                self.stride = next - start;
                Some(Cursor::Start(next))
            }
            _ => None,
        };
        Ok(())
    }

    fn push(&mut self, row: &RawValue) {
        if self.count > 0 {
            self.rows.push(b',');
        }
        self.rows.extend(row.get().as_bytes());
        self.count += 1;
    }
}

/// The parameters for the fast way, without filter, order and start; `None` where it is not certainly right.
fn by_id(params: &[Member], family: Family) -> Option<(Vec<Member>, Vec<Member>)> {
    let (mut others, mut filter) = (Vec::new(), Vec::new());
    for (key, raw) in params {
        match key.to_ascii_lowercase().as_str() {
            "order" | "start" => return None,
            "filter" | "select" if key.bytes().any(|b| b.is_ascii_uppercase()) => return None,
            "filter" if raw == "[]" => {}
            "filter" => {
                let own: Vec<Member> =
                    json::entries(raw).ok()?.iter().map(|(k, v)| (k.to_string(), v.get().to_owned())).collect();
                let on_id = |(name, value): &Member| {
                    let bare = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
                    // A nested condition may speak of the ID too.
                    bare.eq_ignore_ascii_case(family.id) || value.starts_with('{')
                };
                if own.iter().any(on_id) {
                    return None;
                }
                filter = own;
            }
            "select" => others.push((key.clone(), with_id(raw, family.id)?)),
            _ => others.push((key.clone(), raw.clone())),
        }
    }
    Some((others, filter))
}

/// `select` with the ID in it.
fn with_id(raw: &str, id: &str) -> Option<String> {
    let mut fields: Vec<String> = serde_json::from_str(raw).ok()?;
    if !fields.is_empty() && !fields.iter().any(|field| field == id || field == "*") {
        fields.push(id.to_owned());
    }
    serde_json::to_string(&fields).ok()
}

fn answer_of((reply, upstream): (crate::http::Reply, Option<Upstream>)) -> Result<Vec<u8>> {
    match upstream {
        Some(upstream) => Err(Error::Bitrix24(upstream)),
        None => Ok(reply.body),
    }
}

fn page_of(body: &[u8]) -> Result<Page<'_>> {
    let text = std::str::from_utf8(body).unwrap_or("{}");
    let entries = json::entries(text).map_err(|_| not_a_list("it is not JSON"))?;
    let field = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, raw)| raw.get());
    Ok(Page {
        rows: rows_of(field("result").unwrap_or("null"))?,
        next: field("next").and_then(|next| next.parse().ok()),
        total: field("total").filter(|total| total.parse::<u64>().is_ok()),
    })
}

/// The one list in a result, wherever the method puts it.
fn rows_of(result: &str) -> Result<Vec<&RawValue>> {
    if result.starts_with('[') {
        return serde_json::from_str(result).map_err(|_| not_a_list("it is not JSON"));
    }
    let entries = json::entries(result).unwrap_or_default();
    let mut lists = entries.iter().filter(|(_, raw)| raw.get().starts_with('['));
    match (lists.next(), lists.next()) {
        (Some((_, raw)), None) => serde_json::from_str(raw.get()).map_err(|_| not_a_list("it is not JSON")),
        (None, _) => Err(not_a_list("there is no list in it")),
        (Some(_), Some(_)) => Err(not_a_list("there are several lists in it")),
    }
}

fn not_a_list(why: &str) -> Error {
    Error::BadAnswer {
        why: format!("\"all\" cannot read this method's answer to its end: {why}"),
        executed: Executed::Unknown,
        upstream: None,
    }
}

fn last_id(rows: &[&RawValue], family: Family) -> Option<u64> {
    id_of(rows.last()?, family.id)
}

/// A row's ID: a number, or a text of digits.
fn id_of(row: &RawValue, name: &str) -> Option<u64> {
    super::field(row.get(), name)?.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(json: &str) -> Vec<Member> {
        json::entries(json).unwrap().iter().map(|(k, v)| (k.to_string(), v.get().to_owned())).collect()
    }

    #[test]
    fn the_fast_way_is_taken_only_where_it_is_certainly_right() {
        let family = Family { id: "ID", rows: "" };
        let fast = |params: &str| by_id(&members(params), family).is_some();
        assert!(fast("{}"));
        assert!(fast(r#"{"filter":{">=DATE":"x","STAGE":["a"]},"select":["TITLE"]}"#));
        assert!(fast(r#"{"filter":[]}"#));
        for slow in [
            r#"{"order":{"ID":"DESC"}}"#,
            r#"{"start":50}"#,
            r#"{"filter":{">ID":5}}"#,
            r#"{"filter":{"@id":[1]}}"#,
            r#"{"filter":{"0":{"LOGIC":"OR"}}}"#,
            r#"{"FILTER":{"A":1}}"#,
            r#"{"select":{"0":"TITLE"}}"#,
        ] {
            assert!(!fast(slow), "{slow}");
        }
    }

    #[test]
    fn a_missing_id_is_added_to_select() {
        assert_eq!(with_id(r#"["TITLE"]"#, "ID").unwrap(), r#"["TITLE","ID"]"#);
        assert_eq!(with_id(r#"["*","UF_*"]"#, "ID").unwrap(), r#"["*","UF_*"]"#);
        assert_eq!(with_id("[]", "ID").unwrap(), "[]");
    }

    #[test]
    fn the_rows_are_the_one_list_in_the_answer() {
        let count = |result: &str| rows_of(result).map(|rows| rows.len());
        assert_eq!(count("[1,2]"), Ok(2));
        assert_eq!(count("[]"), Ok(0));
        assert_eq!(count(r#"{"items":[1,2,3],"n":1}"#), Ok(3));
        assert!(count(r#"{"a":[],"b":[]}"#).is_err());
        assert!(count(r#"{"a":1}"#).is_err());
        assert!(count("null").is_err());
    }

    #[test]
    fn a_page_behind_a_short_one_is_discarded() {
        let method = Method::parse("crm.deal.list").unwrap();
        let mut reader = Reader::new(&method, "{}", None).unwrap();
        let row = |id: u64| RawValue::from_string(format!("{{\"ID\":\"{id}\"}}")).unwrap();
        let rows: Vec<_> = (1..=49).map(row).collect();
        let page = Page { rows: rows.iter().map(|row| &**row).collect(), next: None, total: None };
        assert!(!reader.take_by_id(&page, Family { id: "ID", rows: "" }).unwrap());
        assert_eq!((reader.count, reader.position), (49, None));
    }

    proptest! {
        #[test]
        fn a_cursor_goes_there_and_back(number: u64, by_id: bool) {
            let cursor = if by_id { Cursor::AfterId(number) } else { Cursor::Start(number) };
            prop_assert_eq!(Cursor::parse(&cursor.to_text()), Some(cursor));
        }

        #[test]
        fn no_text_panics(cursor in "\\PC{0,20}", body in "[\\[\\]{}\":,a-z0-9]{0,40}") {
            let _ = Cursor::parse(&cursor);
            let _ = page_of(body.as_bytes());
        }
    }
}
