//! The slow way: pages by `start`, for every method that has them.
//!
//! Rows that are deleted meanwhile shift those behind them to where reading has been. So each batch begins with the page
//! that the one before ended with: rows on it that were not seen yet have moved there. A page whose `total` is smaller than
//! that of the page before is read again in this manner. IDs tell rows apart; without them there is no such protection, and
//! a list that shrinks is not called whole. Neither is one whose `total` contradicts its rows. Some methods count the page
//! instead of the list (`crm.address.list`): a `total` that equals a full page is not believed.

use super::cursor::{Cursor, Place};
use super::families::Family;
use super::paging::{
    distinct_ids, not_a_list, number, packed, told_apart, Next, Paging, Parameter, RowPage, Rows, FURTHEST, PAGE,
};
use crate::call::bulk::Commands;
use crate::values::error::{Error, Result};
use crate::values::json;
use std::collections::{HashSet, VecDeque};

pub struct ByStart<'a> {
    /// The caller's parameters without `start`.
    others: Vec<Parameter<'a>>,
    /// Where reading began.
    begin: u64,
    /// Where it goes on.
    next: u64,
    /// How far `start` moves with each page.
    stride: u64,
    /// IDs that were read; `None`: rows cannot be told apart.
    seen: Option<HashSet<u64>>,
    /// What was read in earlier requests is not in `seen`, its last page apart.
    resumed: bool,
    /// Rows moved: the page before must be read again.
    retreat: bool,
    /// The page that was read last: its `start`, and its rows.
    last: (u64, Vec<u64>),
    /// The hash of its text.
    last_text: Option<u64>,
    total: Option<u64>,
    /// The least `total` so far.
    least: u64,
    /// Rows and pages that were read in this request.
    read: u64,
    pages: usize,
    /// What stands in the place of `total` is the number of a page's rows.
    counts_page: Option<u64>,
    /// At its end the list counted other rows than were read.
    gap: bool,
    /// Pages that were asked for and not taken yet, by their `start`.
    asked: VecDeque<u64>,
}

impl<'a> ByStart<'a> {
    /// `family`: where the method's names are known.
    pub fn new(params: &'a [Parameter<'a>], family: Option<Family>, cursor: Option<Cursor>) -> Result<ByStart<'a>> {
        let is_start = |key: &str| key.eq_ignore_ascii_case("start");
        let (begin, known) = match cursor.map(|cursor| cursor.place) {
            Some(Place::Start { start, known }) => (start.min(FURTHEST), known),
            Some(Place::AfterId(_)) => {
                return Err(Error::InvalidRequest("\"cursor\" does not belong to this request".into()))
            }
            None => {
                let own = params.iter().find(|(key, _)| is_start(key));
                // Bitrix24 takes -1 as "do not count".
                (own.and_then(|(_, raw)| number(raw)).unwrap_or(0), Vec::new())
            }
        };
        let others = params.iter().filter(|(key, _)| !is_start(key)).map(|parameter| {
            let is_select = family.is_some_and(|family| family.hears(&parameter.0, family.select));
            told_apart(parameter, is_select, family.iter().flat_map(Family::selected))
        });
        Ok(ByStart {
            others: others.collect(),
            begin,
            next: begin + u64::from(!known.is_empty()),
            stride: PAGE as u64,
            resumed: !known.is_empty(),
            retreat: !known.is_empty(),
            last: (begin, known.clone()),
            last_text: None,
            seen: Some(known.into_iter().collect()),
            total: None,
            least: u64::MAX,
            read: 0,
            pages: 0,
            counts_page: None,
            gap: false,
            asked: VecDeque::new(),
        })
    }

    fn page(&self, start: u64) -> String {
        let mut page = String::new();
        self.others.iter().for_each(|(name, value)| json::push_member(&mut page, name, value));
        json::push_member(&mut page, "start", &start.to_string());
        page
    }

    /// The page before the next one.
    fn before(&self) -> u64 {
        self.next.saturating_sub(self.stride).max(self.begin)
    }

    /// Which of a page's rows are new; `None`: none of them is known although they should be.
    fn new_rows(&mut self, ids: Option<&[u64]>, rows: usize, again: bool) -> Option<Vec<bool>> {
        let (Some(ids), Some(seen)) = (ids, self.seen.as_mut()) else {
            self.seen = None;
            return Some(vec![!again; rows]);
        };
        let known = ids.iter().rposition(|id| seen.contains(id));
        if again && known.is_none() {
            return None;
        }
        // Before a known row stands what an earlier request has read.
        let from = known.filter(|_| again && self.resumed).map_or(0, |known| known + 1);
        Some(ids.iter().enumerate().map(|(i, id)| seen.insert(*id) && i >= from).collect())
    }

    /// More rows were deleted than a page holds: one page further back.
    fn retreat_from(&mut self, start: u64) -> Result<Next> {
        if self.resumed && start <= self.begin {
            return Err(Error::InvalidRequest(
                "the list has changed too much since this \"cursor\" was given: read it again without one".into(),
            ));
        }
        (self.next, self.retreat) = (start, true);
        Ok(Next::Discard)
    }

    /// What follows the page at `start`. `new`: it had rows that were not known.
    fn after(&mut self, page: &RowPage, start: u64, new: bool) -> Result<Next> {
        let rows = page.count as u64;
        let total = page.total.filter(|_| self.counts_page.is_none());
        let next = match (page.next, total) {
            (Some(next), _) if next > start => next,
            (Some(_), _) => return Err(not_a_list("its \"next\" does not move")),
            (None, Some(total)) if start + rows.max(self.stride) < total => {
                return Err(not_a_list("it has more rows and no \"next\""))
            }
            // Some are hidden from this user, or its pages are small: what follows shows which.
            (None, Some(total)) if new && rows > 0 && start + rows < total && self.seen.is_some() => start + rows,
            // It says nothing: a full page may be followed by another.
            (None, None) if new && rows == self.stride => start + self.stride,
            (None, _) => return Ok(self.at_end(start + rows, rows > 0)),
        };
        (self.next, self.stride) = (next, next - start);
        Ok(if self.asked.front() == Some(&next) { Next::Counts } else { Next::Discard })
    }

    /// Whether the list may be called whole that ends here. `on_page`: there are rows on its last page.
    fn at_end(&mut self, end: u64, on_page: bool) -> Next {
        let contradicts = |total: u64| total > end || (on_page && total < end);
        let too_few = !self.resumed && self.total.is_some() && self.begin + self.read < self.least;
        self.gap = too_few || self.total.is_some_and(contradicts);
        if self.gap {
            Next::Incomplete
        } else {
            Next::End
        }
    }

    /// Notices a `total` that is no list's: the number of a full first page's rows, or less than what stands before the page.
    fn doubt_total(&mut self, page: &RowPage, start: u64) {
        let rows = page.count as u64;
        let is_doubtful = |total: u64| match start {
            _ if total == rows && page.count >= PAGE => true,
            0 => false,
            _ => rows > 0 && total <= start,
        };
        if self.pages == 0 && page.total.is_some_and(is_doubtful) {
            (self.counts_page, self.stride) = (page.total, rows.max(PAGE as u64));
        }
    }
}

impl Paging for ByStart<'_> {
    fn alone(&mut self) -> String {
        let start = if self.retreat { self.before() } else { self.next };
        self.asked = VecDeque::from([start]);
        self.page(start)
    }

    fn commands(&mut self, method: &str, most: usize) -> Option<Commands> {
        let from = if self.seen.is_some() { self.before() } else { self.next };
        // Whether a method that does not count its rows knows `start` at all shows on the second page.
        let unsure = self.total.is_none() && self.next <= self.begin + self.stride;
        let count = if unsure { 2 } else { most as u64 };
        self.asked = (0..count).map(|i| from + i * self.stride).collect();
        let mut commands = Commands::default();
        let mut fits = |start| Some(commands.push(&packed(method, &self.page(start))?));
        let all_fit = self.asked.iter().try_fold(true, |all, start| Some(all & fits(*start)?))?;
        all_fit.then_some(commands)
    }

    fn take(&mut self, page: &RowPage, rows: &mut Rows) -> Result<Next> {
        let start = self.asked.pop_front().expect("no page comes that was not asked for");
        let again = start < self.next;
        self.doubt_total(page, start);
        if let Some(total) = page.total.filter(|_| self.counts_page.is_none()) {
            let shrank = self.total.is_some_and(|before| total < before);
            (self.total, self.least) = (Some(total), self.least.min(total));
            if self.pages > 0 && !self.retreat && (total < self.next || (shrank && self.seen.is_none())) {
                // What was read is said not to be there any more, or may have moved unseen.
                return Ok(Next::Incomplete);
            }
            if shrank && !again && start > self.begin && self.seen.is_some() {
                self.retreat = true;
                return Ok(Next::Discard);
            }
        }
        self.pages += 1;
        let ids = distinct_ids(page);
        let text = page.fingerprint();
        let repeated = self.last_text.replace(text) == Some(text);
        if ids.is_none() && repeated && page.next.is_none() && (page.total.is_none() || self.counts_page.is_some()) {
            // The method does not know `start`.
            return Ok(Next::End);
        }
        let Some(new) = self.new_rows(ids.as_deref(), page.count, again) else {
            return self.retreat_from(start);
        };
        self.retreat = false;
        for (row, _) in page.rows().zip(&new).filter(|(_, new)| **new) {
            rows.push(row);
            self.read += 1;
        }
        self.last = (start, ids.unwrap_or_default());
        self.after(page, start, again || new.contains(&true))
    }

    fn pages_left(&self) -> Option<u64> {
        // With the page that is read again, and one for rows that were added.
        self.total.map(|total| total.saturating_sub(self.next).div_ceil(self.stride) + 2)
    }

    fn total(&self) -> Option<u64> {
        self.total.or(self.counts_page.filter(|total| self.begin == 0 && !self.resumed && *total == self.read))
    }

    fn cursor(&self) -> Cursor {
        let place = match &self.last {
            (start, known) if self.seen.is_some() && !known.is_empty() => {
                Place::Start { start: *start, known: known.clone() }
            }
            _ => Place::Start { start: self.next, known: Vec::new() },
        };
        Cursor { place, gap: self.gap }
    }

    fn held(&self) -> usize {
        self.seen.as_ref().map_or(0, |seen| seen.capacity() * 9)
    }
}
