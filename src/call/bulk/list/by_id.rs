//! The fast way: order by ID, and ask for what lies behind the last one (`>ID`, `start=-1`). Rows that are added or deleted
//! meanwhile shift nothing.
//!
//! Pages are chained in a batch by `$result`, which to Bitrix24 is an empty filter where there is nothing to refer to; so a
//! page behind a short one is discarded. The way is taken only for methods that are known to allow it, and requests that do
//! not bring an order, a start or a filter on ID of their own.

use super::cursor::Cursor;
use super::paging::{members, not_a_list, packed, Next, Paging, Parameter, RowPage, Rows, PAGE};
use crate::call::bulk::{command, name, Commands};
use crate::values::error::Result;
use crate::values::json::{self, Text};
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

pub struct ById<'a> {
    family: Family,
    /// The caller's parameters without those that paging sets.
    others: Vec<Parameter<'a>>,
    /// The caller's filter, as members.
    filter: Vec<Parameter<'a>>,
    /// The ID of the last row that was read.
    last: u64,
    /// Nothing was read yet, in this request or an earlier one.
    fresh: bool,
    /// Rows that were read in this request.
    read: u64,
    /// As the first page said.
    total: Option<u64>,
}

impl<'a> ById<'a> {
    /// `None` where this way is not certainly right.
    pub fn of(method: &Method, params: &'a [Parameter<'a>], cursor: Option<&Cursor>) -> Option<ById<'a>> {
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
    fn page(&self, behind: Option<&str>, start: &str) -> String {
        let (mut page, id) = (String::new(), self.family.id);
        self.others.iter().for_each(|(name, value)| json::push_member(&mut page, name, value));
        if behind.is_some() || !self.filter.is_empty() {
            json::push_member(&mut page, "filter", "{");
            self.filter.iter().for_each(|(name, value)| json::push_member(&mut page, name, value));
            behind.iter().for_each(|behind| json::push_member(&mut page, &format!(">{id}"), behind));
            page.push('}');
        }
        json::push_member(&mut page, "order", &format!("{{\"{id}\":\"ASC\"}}"));
        json::push_member(&mut page, "start", start);
        page
    }
}

impl Paging for ById<'_> {
    fn alone(&mut self) -> String {
        // The first one counts the rows, too.
        self.page(Some(&self.last.to_string()), if self.fresh { "0" } else { "-1" })
    }

    /// Each page behind the last row of the one before.
    fn commands(&mut self, method: &str, most: usize) -> Option<Commands> {
        let first = packed(method, &self.page(Some(&self.last.to_string()), "-1"))?;
        let bare = packed(method, &self.page(None, "-1"))?;
        let list = if self.family.rows.is_empty() { String::new() } else { format!("[{}]", self.family.rows) };
        let chained = (1..most).map(|i| {
            let last = format!("$result[{}]{list}[{}][{}]", name(i - 1), PAGE - 1, self.family.id);
            command::with_field(&bare, &format!("filter[>{}]", self.family.id), &last)
        });
        Commands::of(std::iter::once(first).chain(chained))
    }

    fn take(&mut self, page: &RowPage, rows: &mut Rows) -> Result<Next> {
        let ids = page.ids(self.family.id);
        let another_size = page.next.is_some() && page.count != PAGE;
        if self.fresh && (ids.is_none() || another_size) {
            return Ok(Next::Unfit);
        }
        let ids = ids.ok_or_else(|| not_a_list("a row has no ID"))?;
        if std::mem::take(&mut self.fresh) {
            self.total = page.total;
        }
        for (row, id) in page.rows().zip(ids) {
            if id <= self.last {
                return Err(not_a_list("its rows are not in the order of their IDs"));
            }
            rows.push(row);
            self.last = id;
        }
        self.read += page.count as u64;
        Ok(if page.count == PAGE { Next::Counts } else { Next::End })
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
fn without_paging<'a>(params: &'a [Parameter<'a>], family: Family) -> Option<(Vec<Parameter<'a>>, Vec<Parameter<'a>>)> {
    let (mut others, mut filter) = (Vec::new(), Vec::new());
    for (key, raw) in params {
        match key.to_ascii_lowercase().as_str() {
            "order" | "start" => return None,
            "filter" | "select" if key.bytes().any(|b| b.is_ascii_uppercase()) => return None,
            "filter" if raw == "[]" => {}
            "filter" => {
                let own = members(raw).ok()?;
                // Beside `"logic":"OR"` our condition would be one of several; a nested one may speak of the ID too.
                let unfit = |(name, value): &Parameter| {
                    let bare = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
                    bare.eq_ignore_ascii_case(family.id) || bare.eq_ignore_ascii_case("logic") || value.contains('{')
                };
                if own.iter().any(unfit) {
                    return None;
                }
                filter = own;
            }
            // None at all is all of them, and an empty list would not survive in a batch.
            "select" => others.extend(with_id(raw, family.id)?.map(|fields| (key.as_ref().into(), fields.into()))),
            _ => others.push((key.as_ref().into(), raw.as_ref().into())),
        }
    }
    Some((others, filter))
}

/// `select` with the ID in it; `Some(None)`: it is empty.
fn with_id(raw: &str, id: &str) -> Option<Option<String>> {
    let (mut is_empty, mut is_there) = (true, false);
    for field in json::elements(raw) {
        let field: Text = serde_json::from_str(field.ok()?).ok()?;
        is_empty = false;
        is_there |= field.0 == id || field.0 == "*";
    }
    Some(match raw.trim_end().strip_suffix(']') {
        _ if is_empty => None,
        Some(fields) if !is_there => Some(format!("{fields},{}]", json::quoted(id))),
        _ => Some(raw.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEALS: Family = Family { id: "ID", rows: "" };

    fn deals() -> ById<'static> {
        ById::of(&Method::parse("crm.deal.list").unwrap(), &[], None).unwrap()
    }

    fn taken(way: &mut ById, ids: impl IntoIterator<Item = u64>, next: Option<u64>) -> Result<Next> {
        let rows: Vec<String> = ids.into_iter().map(|id| format!("{{\"ID\":\"{id}\"}}")).collect();
        let next = next.map(|next| format!(",\"next\":{next}")).unwrap_or_default();
        let answer = format!("{{\"result\":[{}]{next}}}", rows.join(","));
        way.take(&RowPage::of_answer(answer.as_bytes()).unwrap(), &mut Rows::default())
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
