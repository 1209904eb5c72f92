//! The fast way: order by ID, and ask for what lies behind the last one (`>ID`, `start=-1`). Rows that are added or deleted
//! meanwhile shift nothing.
//!
//! Pages are chained in a batch by `$result`, which to Bitrix24 is an empty filter where there is nothing to refer to; so a
//! page behind a short one is discarded. The way is taken only for methods that are known to allow it, and requests that do
//! not bring an order, a start or a filter on ID of their own.

use super::cursor::Cursor;
use super::paging::{id_of, members, not_a_list, Next, Paging, RowPage, Rows, PAGE};
use crate::call::bulk::{command, name};
use crate::values::error::Result;
use crate::values::json::{self, Member};
use crate::values::method::Method;

/// How a method that allows this way names things.
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

pub struct ById {
    family: Family,
    /// The caller's parameters without those that paging sets.
    others: Vec<Member>,
    /// The caller's filter, as members.
    filter: Vec<Member>,
    /// The ID of the last row that was read.
    last: u64,
    /// Nothing was read yet, in this request or an earlier one.
    fresh: bool,
    /// Rows that were read in this request.
    read: u64,
    /// As the first page said.
    total: Option<u64>,
}

impl ById {
    /// `None` where this way is not certainly right.
    pub fn of(method: &Method, params: &[Member], cursor: Option<&Cursor>) -> Option<ById> {
        let family = family(method)?;
        let last = match cursor {
            None => 0,
            Some(Cursor::AfterId(id)) => *id,
            Some(Cursor::Start { .. }) => return None,
        };
        let (others, filter) = without_paging(params, family)?;
        Some(ById { family, others, filter, last, fresh: cursor.is_none(), read: 0, total: None })
    }

    /// The parameters of a page; `behind` is a JSON value.
    fn page(&self, behind: Option<&str>, start: &str) -> Vec<Member> {
        let mut filter = self.filter.clone();
        filter.extend(behind.map(|id| (format!(">{}", self.family.id), id.to_owned())));
        let mut members = self.others.clone();
        if !filter.is_empty() {
            members.push(("filter".into(), json::object(&filter)));
        }
        members.push(("order".into(), json::object(&[(self.family.id.into(), "\"ASC\"".into())])));
        members.push(("start".into(), start.into()));
        members
    }
}

impl Paging for ById {
    fn alone(&mut self) -> Vec<Member> {
        // The first one counts the rows, too.
        self.page(Some(&self.last.to_string()), if self.fresh { "0" } else { "-1" })
    }

    /// Each page behind the last row of the one before.
    fn commands(&mut self, method: &str, most: usize) -> Option<Vec<String>> {
        let first = command::of(method, &json::object(&self.page(Some(&self.last.to_string()), "-1")))?;
        let bare = command::of(method, &json::object(&self.page(None, "-1")))?;
        let list = if self.family.rows.is_empty() { String::new() } else { format!("[{}]", self.family.rows) };
        let chained = (1..most).map(|i| {
            let last = format!("$result[{}]{list}[{}][{}]", name(i - 1), PAGE - 1, self.family.id);
            command::with_field(&bare, &format!("filter[>{}]", self.family.id), &last)
        });
        Some(std::iter::once(first).chain(chained).collect())
    }

    fn take(&mut self, page: &RowPage, rows: &mut Rows) -> Result<Next> {
        let ids: Option<Vec<u64>> = page.rows.iter().map(|row| id_of(row, self.family.id)).collect();
        let another_size = page.next.is_some() && page.rows.len() != PAGE;
        if self.fresh && (ids.is_none() || another_size) {
            return Ok(Next::Unfit);
        }
        let ids = ids.ok_or_else(|| not_a_list("a row has no ID"))?;
        if std::mem::take(&mut self.fresh) {
            self.total = page.total;
        }
        for (row, id) in page.rows.iter().zip(ids) {
            if id <= self.last {
                return Err(not_a_list("its rows are not in the order of their IDs"));
            }
            rows.push(row);
            self.last = id;
        }
        self.read += page.rows.len() as u64;
        Ok(if page.rows.len() == PAGE { Next::Counts } else { Next::End })
    }

    fn pages_left(&self) -> Option<u64> {
        // One more, for rows that were added.
        self.total.map(|total| total.saturating_sub(self.read).div_ceil(PAGE as u64) + 1)
    }

    fn total(&self) -> Option<u64> {
        self.total
    }

    fn cursor(&self) -> Cursor {
        Cursor::AfterId(self.last)
    }
}

/// The parameters without filter, order and start, and the filter; `None` where this way is not certainly right.
fn without_paging(params: &[Member], family: Family) -> Option<(Vec<Member>, Vec<Member>)> {
    let (mut others, mut filter) = (Vec::new(), Vec::new());
    for (key, raw) in params {
        match key.to_ascii_lowercase().as_str() {
            "order" | "start" => return None,
            "filter" | "select" if key.bytes().any(|b| b.is_ascii_uppercase()) => return None,
            "filter" if raw == "[]" => {}
            "filter" => {
                let own = members(raw).ok()?;
                // Beside `"logic":"OR"` our condition would be one of several; a nested one may speak of the ID too.
                let unfit = |(name, value): &Member| {
                    let bare = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
                    bare.eq_ignore_ascii_case(family.id) || bare.eq_ignore_ascii_case("logic") || value.contains('{')
                };
                if own.iter().any(unfit) {
                    return None;
                }
                filter = own;
            }
            // None at all is all of them, and an empty list would not survive in a batch.
            "select" => others.extend(with_id(raw, family.id)?.map(|fields| (key.clone(), fields))),
            _ => others.push((key.clone(), raw.clone())),
        }
    }
    Some((others, filter))
}

/// `select` with the ID in it; `Some(None)`: it is empty.
fn with_id(raw: &str, id: &str) -> Option<Option<String>> {
    let mut fields: Vec<String> = serde_json::from_str(raw).ok()?;
    if fields.is_empty() {
        return Some(None);
    }
    if !fields.iter().any(|field| field == id || field == "*") {
        fields.push(id.to_owned());
    }
    serde_json::to_string(&fields).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    const DEALS: Family = Family { id: "ID", rows: "" };

    fn deals() -> ById {
        ById::of(&Method::parse("crm.deal.list").unwrap(), &[], None).unwrap()
    }

    fn taken(way: &mut ById, ids: impl IntoIterator<Item = u64>, next: Option<u64>) -> Result<Next> {
        let row = |id: u64| RawValue::from_string(format!("{{\"ID\":\"{id}\"}}")).unwrap();
        let rows: Vec<_> = ids.into_iter().map(row).collect();
        let page = RowPage { rows: rows.iter().map(|row| &**row).collect(), next, total: None };
        way.take(&page, &mut Rows::default())
    }

    #[test]
    fn this_way_is_taken_only_where_it_is_certainly_right() {
        let fast = |params: &str| without_paging(&members(params).unwrap(), DEALS).is_some();
        assert!(fast("{}"));
        assert!(fast(r#"{"filter":{">=DATE":"x","STAGE":["a"]},"select":["TITLE"]}"#));
        assert!(fast(r#"{"filter":[],"select":[]}"#));
        for slow in [
            r#"{"order":{"ID":"DESC"}}"#,
            r#"{"start":50}"#,
            r#"{"filter":{">ID":5}}"#,
            r#"{"filter":{"@id":[1]}}"#,
            r#"{"filter":{"0":{"LOGIC":"OR"}}}"#,
            r#"{"filter":{"logic":"OR","=opened":"Y"}}"#,
            r#"{"filter":{"A":[{"ID":5}]}}"#,
            r#"{"FILTER":{"A":1}}"#,
            r#"{"select":{"0":"TITLE"}}"#,
        ] {
            assert!(!fast(slow), "{slow}");
        }
    }

    #[test]
    fn a_missing_id_is_added_to_select() {
        let select = |raw: &str| with_id(raw, "ID").unwrap();
        assert_eq!(select(r#"["TITLE"]"#).unwrap(), r#"["TITLE","ID"]"#);
        assert_eq!(select(r#"["*","UF_*"]"#).unwrap(), r#"["*","UF_*"]"#);
        assert_eq!(select("[]"), None);
    }

    #[test]
    fn a_page_behind_a_short_one_does_not_count() {
        let mut way = deals();
        assert_eq!(taken(&mut way, 1..=50, Some(50)), Ok(Next::Counts));
        assert_eq!(taken(&mut way, 51..=99, None), Ok(Next::End));
        assert_eq!(way.cursor(), Cursor::AfterId(99));
    }

    #[test]
    fn what_is_not_as_known_is_read_the_other_way_or_not_at_all() {
        assert_eq!(taken(&mut deals(), 1..=20, Some(20)), Ok(Next::Unfit));
        let mut way = deals();
        assert_eq!(taken(&mut way, 1..=50, Some(50)), Ok(Next::Counts));
        assert!(taken(&mut way, 1..=50, None).is_err());
    }
}
