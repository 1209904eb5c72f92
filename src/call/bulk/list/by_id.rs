//! The fast way: order by ID, and ask for what lies behind the last one (`>ID`, `start=-1`). Rows that are added or deleted
//! meanwhile shift nothing.
//!
//! Pages are chained in a batch by `$result`, which to Bitrix24 is the whole list, or nothing, where a page has no 50th row; so
//! a page behind a short one is discarded. The way is taken only for methods that are known to allow it, and requests that do
//! not bring an order, a start or a filter on ID of their own; and only as long as the answers show that it is understood.

use super::cursor::{Cursor, Place};
use super::families::Family;
use super::paging::{members, out_of_order, packed, selected, Next, Paging, Parameter, RowPage, Rows, PAGE};
use crate::call::bulk::{command, name, Commands};
use crate::values::error::Result;
use crate::values::json;
use crate::values::method::Method;

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
    /// An earlier request has read some of it.
    resumed: bool,
    /// There are more rows than were read.
    gap: bool,
    /// Rows that were read in this request.
    read: u64,
    /// As the first page said.
    total: Option<u64>,
    closing: Option<Closing>,
    /// A page was not full, in a request that has not counted the rows: the end is an empty one.
    short: bool,
}

/// A page was not full, and fewer rows were read than the first page has counted. What was deleted meanwhile counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// What is behind it.
    Behind,
    /// How many rows there are now. `found`: there were some behind it.
    Count { found: bool },
}

impl<'a> ById<'a> {
    /// `None` where this way is not certainly right.
    pub fn of(method: &Method, params: &'a [Parameter<'a>], cursor: Option<&Cursor>) -> Option<ById<'a>> {
        let family = Family::of(method)?;
        let last = match cursor.map(|cursor| &cursor.place) {
            None => 0,
            Some(Place::AfterId(id)) => *id,
            Some(Place::Start { .. }) => return None,
        };
        let (others, filter) = without_paging(params, family)?;
        let (fresh, resumed) = (cursor.is_none(), cursor.is_some());
        Some(ById {
            family,
            others,
            filter,
            last,
            fresh,
            resumed,
            gap: false,
            read: 0,
            total: None,
            closing: None,
            short: false,
        })
    }

    /// The parameters of a page; `behind` is a JSON value.
    fn page(&self, behind: Option<&str>, start: &str) -> String {
        let (mut page, family) = (String::new(), self.family);
        self.others.iter().for_each(|(name, value)| json::push_member(&mut page, name, value));
        if behind.is_some() || !self.filter.is_empty() {
            json::push_member(&mut page, family.filter, "{");
            self.filter.iter().for_each(|(name, value)| json::push_member(&mut page, name, value));
            behind.iter().for_each(|behind| json::push_member(&mut page, &format!(">{}", family.asked), behind));
            page.push('}');
        }
        family.push_order(&mut page);
        json::push_member(&mut page, "start", start);
        page
    }

    fn behind_last(&self) -> String {
        // The first one counts the rows, too.
        self.page(Some(&self.last.to_string()), if self.fresh { "0" } else { "-1" })
    }

    /// The first page again, which says how many rows there are now.
    fn count(&self) -> String {
        self.page(Some("0"), "0")
    }

    /// Whether the first page is as the family's are known to be.
    fn behaves(&self, page: &RowPage) -> bool {
        let at_its_place = page.count == 0 || page.place == self.family.rows;
        let rows = page.count as u64;
        at_its_place
            && match (page.next, page.total) {
                (Some(next), total) => page.count == PAGE && next == rows && total.is_none_or(|total| total >= rows),
                (None, Some(total)) => page.count <= PAGE && total == rows,
                (None, None) => page.count <= PAGE,
            }
    }

    /// What follows a page of so many rows.
    fn after(&mut self, rows: usize) -> Next {
        self.short = self.resumed && (1..PAGE).contains(&rows);
        if rows >= PAGE {
            let chained = self.closing.take().is_none() && rows == PAGE;
            // What is chained refers to the 50th row.
            return if chained { Next::Counts } else { Next::Discard };
        }
        match (self.total, self.closing) {
            (_, Some(_)) => {
                self.closing = Some(Closing::Count { found: rows > 0 });
                Next::Counts
            }
            (Some(total), None) if self.read < total => {
                self.closing = Some(Closing::Behind);
                Next::Discard
            }
            _ if self.short => Next::Discard,
            _ => Next::End,
        }
    }

    /// What follows the count of all rows that there are now.
    fn after_count(&mut self, total: Option<u64>, found: bool) -> Next {
        (self.closing, self.total) = (None, total);
        match total {
            Some(total) if total > self.read && found => Next::Discard,
            Some(total) if total > self.read => {
                self.gap = true;
                Next::Incomplete
            }
            _ => Next::End,
        }
    }
}

impl Paging for ById<'_> {
    fn alone(&mut self) -> String {
        match self.closing {
            Some(Closing::Count { .. }) => self.count(),
            _ => self.behind_last(),
        }
    }

    /// Each page behind the last row of the one before.
    fn commands(&mut self, method: &str, most: usize) -> Option<Commands> {
        let first = packed(method, &self.behind_last())?;
        if self.closing.is_some() {
            self.closing = Some(Closing::Behind);
            return Commands::of([first, packed(method, &self.count())?]);
        }
        let family = self.family;
        let bare = packed(method, &self.page(None, "-1"))?;
        let list = if family.rows.is_empty() { String::new() } else { format!("[{}]", family.rows) };
        let chained = (1..most).map(|i| {
            let last = format!("$result[{}]{list}[{}][{}]", name(i - 1), PAGE - 1, family.answered);
            command::with_field(&bare, &format!("{}[>{}]", family.filter, family.asked), &last)
        });
        Commands::of(std::iter::once(first).chain(chained))
    }

    fn take(&mut self, page: &RowPage, rows: &mut Rows) -> Result<Next> {
        if let Some(Closing::Count { found }) = self.closing {
            return Ok(self.after_count(page.total, found));
        }
        let fresh = std::mem::take(&mut self.fresh);
        let ids = page.ids_behind(self.family.answered, self.last);
        let Some(ids) = ids.filter(|_| !fresh || self.behaves(page)) else { return out_of_order(self.resumed) };
        if fresh {
            self.total = page.total;
        }
        page.rows().for_each(|row| rows.push(row));
        self.last = ids.last().copied().unwrap_or(self.last);
        self.read += page.count as u64;
        Ok(self.after(page.count))
    }

    fn pages_left(&self) -> Option<u64> {
        if self.short {
            return Some(1);
        }
        // One more, for rows that were added.
        let left = self.total.and_then(|total| total.checked_sub(self.read));
        left.map(|left| left.div_ceil(PAGE as u64) + 1)
    }

    fn total(&self) -> Option<u64> {
        // Rows were added or deleted since, or it was the number of a page's rows.
        self.total.filter(|total| *total >= self.read)
    }

    fn cursor(&self) -> Cursor {
        Cursor { place: Place::AfterId(self.last), gap: self.gap }
    }
}

/// The parameters without filter, order and start, and the filter; `None` where this way is not certainly right.
fn without_paging<'a>(params: &'a [Parameter<'a>], family: Family) -> Option<(Vec<Parameter<'a>>, Vec<Parameter<'a>>)> {
    let (mut others, mut filter) = (Vec::new(), None);
    let mut has_select = false;
    for (key, raw) in params {
        let lower = key.to_ascii_lowercase();
        match lower.as_str() {
            lower if family.is_order_or_start(lower) => return None,
            "filter" if !family.hears(key, family.filter) || filter.is_some() => return None,
            "filter" => filter = Some(own_filter(raw, family)?),
            "select" if !family.hears(key, family.select) || has_select => return None,
            // None at all is all of them, and an empty list would not survive in a batch.
            "select" => {
                has_select = true;
                let fields = selected(raw, family.selected())?;
                others.extend(fields.map(|fields| (key.as_ref().into(), fields.into())));
            }
            lower if family.may_be_condition(lower) => return None,
            _ => others.push((key.as_ref().into(), raw.as_ref().into())),
        }
    }
    let filter = filter.unwrap_or_default();
    let is_there = |needed: &str| filter.iter().any(|(name, _)| bare(name).eq_ignore_ascii_case(needed));
    family.needs.is_none_or(is_there).then_some((others, filter))
}

/// The members of the caller's filter; `None` where `>ID` beside them would not be one more condition.
fn own_filter<'a>(raw: &'a str, family: Family) -> Option<Vec<Parameter<'a>>> {
    if raw == "[]" {
        return Some(Vec::new());
    }
    let own = members(raw).ok()?;
    // Beside `"logic":"OR"` our condition would be one of several; a nested one may speak of the ID too.
    let unfit = |(name, value): &Parameter| {
        let bare = bare(name);
        bare.eq_ignore_ascii_case(family.asked) || bare.eq_ignore_ascii_case("logic") || value.contains('{')
    };
    (!own.iter().any(unfit)).then_some(own)
}

/// A condition's field, without its operator.
fn bare(name: &str) -> &str {
    name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(method: &str) -> Family {
        Family::of(&Method::parse(method).unwrap()).unwrap()
    }

    fn deals() -> ById<'static> {
        ById::of(&Method::parse("crm.deal.list").unwrap(), &[], None).unwrap()
    }

    fn answered(way: &mut ById, ids: impl IntoIterator<Item = u64>, rest: &str) -> Result<Next> {
        let rows: Vec<String> = ids.into_iter().map(|id| format!("{{\"ID\":\"{id}\"}}")).collect();
        let answer = format!("{{\"result\":[{}]{rest}}}", rows.join(","));
        way.take(&RowPage::of_answer(answer.as_bytes()).unwrap(), &mut Rows::default())
    }

    fn is_fast(method: &str, params: &str) -> bool {
        without_paging(&members(params).unwrap(), family(method)).is_some()
    }

    #[test]
    fn this_way_is_taken_only_where_it_is_certainly_right() {
        for params in
            ["{}", r#"{"filter":{">=DATE":"x","STAGE":["a"]},"select":["TITLE"]}"#, r#"{"filter":[],"select":[]}"#]
        {
            assert!(is_fast("crm.deal.list", params), "{params}");
        }
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
            assert!(!is_fast("crm.deal.list", slow), "{slow}");
        }
    }

    #[test]
    fn each_family_has_names_of_its_own() {
        assert!(is_fast("lists.element.get", r#"{"IBLOCK_ID":5,"FILTER":{"A":1},"SELECT":["NAME"]}"#));
        assert!(!is_fast("lists.element.get", r#"{"filter":{"A":1}}"#));
        assert!(!is_fast("lists.element.get", r#"{"ELEMENT_ORDER":{"NAME":"ASC"}}"#));
        assert!(is_fast("user.get", r#"{"filter":{"ACTIVE":"Y"},"ADMIN_MODE":1}"#));
        // Beside a filter it would count no more.
        assert!(!is_fast("user.get", r#"{"ACTIVE":"Y"}"#));
        assert!(!is_fast("user.get", r#"{"SORT":"NAME"}"#));
        assert!(!is_fast("user.get", r#"{"filter":{"A":1},"FILTER":{"B":1}}"#));
        assert!(is_fast("catalog.product.list", r#"{"filter":{"=iblockId":24}}"#));
        assert!(!is_fast("catalog.product.list", r#"{"filter":{"active":"Y"}}"#));
    }

    #[test]
    fn what_select_must_contain_is_added() {
        let select = |method: &str, raw: &str| selected(raw, family(method).selected()).unwrap();
        assert_eq!(select("crm.deal.list", r#"["TITLE"]"#).unwrap(), r#"["TITLE","ID"]"#);
        assert_eq!(select("crm.deal.list", r#"["*","UF_*"]"#).unwrap(), r#"["*","UF_*"]"#);
        assert_eq!(select("crm.deal.list", "[]"), None);
        assert_eq!(select("catalog.product.list", r#"["name"]"#).unwrap(), r#"["name","id","iblockId"]"#);
        assert_eq!(select("tasks.task.list", r#"["id"]"#).unwrap(), r#"["id","ID"]"#);
    }

    #[test]
    fn a_page_behind_a_short_one_does_not_count() {
        let mut way = deals();
        assert_eq!(answered(&mut way, 1..=50, r#","next":50"#), Ok(Next::Counts));
        assert_eq!(answered(&mut way, 51..=99, ""), Ok(Next::End));
        assert_eq!(way.cursor(), Cursor { place: Place::AfterId(99), gap: false });
    }

    #[test]
    fn a_first_page_that_is_not_as_known_is_read_the_other_way() {
        for (ids, rest) in [
            (1..=20, r#","next":20"#),
            (1..=20, r#","total":120"#),
            (1..=50, r#","total":120"#),
            (1..=50, r#","next":50,"total":7"#),
            (1..=51, ""),
        ] {
            assert_eq!(answered(&mut deals(), ids.clone(), rest), Ok(Next::Unfit), "{ids:?}{rest}");
        }
        assert_eq!(answered(&mut deals(), (1..=50).rev(), r#","next":50"#), Ok(Next::Unfit));
        let elsewhere = br#"{"result":{"items":[{"ID":1}]}}"#;
        let page = RowPage::of_answer(elsewhere).unwrap();
        assert_eq!(deals().take(&page, &mut Rows::default()), Ok(Next::Unfit));
    }

    #[test]
    fn a_filter_that_is_not_heard_shows_on_the_second_page() {
        let mut way = deals();
        assert_eq!(answered(&mut way, 1..=50, r#","next":50"#), Ok(Next::Counts));
        assert_eq!(answered(&mut way, 1..=50, ""), Ok(Next::Unfit));
    }

    #[test]
    fn fewer_rows_than_were_counted_are_looked_for_and_counted_again() {
        for (total, end) in [(59, Next::End), (60, Next::End), (61, Next::Incomplete)] {
            let mut way = deals();
            assert_eq!(answered(&mut way, 1..=50, r#","next":50,"total":200"#), Ok(Next::Counts));
            assert_eq!(answered(&mut way, 51..=60, ""), Ok(Next::Discard));
            assert_eq!(way.commands("m", 50).unwrap().count(), 2);
            assert_eq!(answered(&mut way, [], ""), Ok(Next::Counts));
            assert_eq!(answered(&mut way, 1..=50, &format!(",\"total\":{total}")), Ok(end));
            assert_eq!(way.cursor(), Cursor { place: Place::AfterId(60), gap: end == Next::Incomplete });
        }
    }

    #[test]
    fn rows_behind_a_page_that_was_not_full_are_read_on() {
        let mut way = deals();
        assert_eq!(answered(&mut way, 1..=50, r#","next":50,"total":200"#), Ok(Next::Counts));
        assert_eq!(answered(&mut way, 51..=60, ""), Ok(Next::Discard));
        assert_eq!(answered(&mut way, 61..=80, ""), Ok(Next::Counts));
        assert_eq!(answered(&mut way, 1..=50, r#","total":180"#), Ok(Next::Discard));
        assert_eq!(answered(&mut way, 81..=130, ""), Ok(Next::Counts));
        assert_eq!(answered(&mut way, 131..=170, ""), Ok(Next::Discard));
        assert_eq!(answered(&mut way, 171..=220, ""), Ok(Next::Discard));
        assert_eq!(answered(&mut way, 221..=230, ""), Ok(Next::End));
    }

    #[test]
    fn a_total_that_equals_a_page_is_not_believed() {
        let mut way = deals();
        assert_eq!(answered(&mut way, 1..=50, r#","total":50"#), Ok(Next::Counts));
        assert_eq!(way.total(), Some(50));
        assert_eq!(answered(&mut way, 51..=70, ""), Ok(Next::End));
        assert_eq!(way.total(), None);
    }
}
