//! `"all": true`: a list method read to its end, by one of several [ways](Paging): [`by_id`] where that is certainly right,
//! else [`by_start`]; REST 3.0's lists [their own way](rest3).
//!
//! Every page asks the same question: parameters that a batch would change make pages go one by one.

mod by_id;
mod by_start;
mod cursor;
mod families;
mod paging;
mod rest3;

pub use cursor::Cursor;

use super::{name, BatchAnswer, Steps, MAX_COMMANDS};
use crate::call::payload::Parameters;
use crate::values::error::{Error, Executed, Result};
use crate::values::json;
use crate::values::method::Method;
use crate::values::portal::Version;
use by_id::ById;
use by_start::ByStart;
use families::Family;
use paging::{bad_answer, members, not_a_list, Next, Paging, Parameter, RowPage, Rows, MORE_THAN_GIVEN};
use rest3::{ByKey, ByOffset};
use std::time::Duration;

/// Pages of the first batch; how long they take is not known yet.
const FIRST_BATCH: usize = 10;
/// A batch that took longer is followed by a shorter one: Bitrix24 cuts an execution at 60 s.
const LONG_BATCH: Duration = Duration::from_secs(15);
/// How names of methods end that certainly are no lists, and would do harm.
const CHANGES: [&str; 5] = ["add", "update", "set", "delete", "remove"];

/// A list, as far as it was read.
pub struct Listed {
    rows: Rows,
    total: Option<u64>,
    /// As text; `None`: this is all.
    cursor: Option<String>,
}

impl Listed {
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
pub fn read(steps: &mut Steps, method: &Method, raw_params: &str, cursor: Option<Cursor>) -> Result<Listed> {
    let canonical = method.canonical();
    if CHANGES.iter().any(|end| canonical.ends_with(&format!(".{end}"))) {
        return Err(Error::InvalidRequest(format!("\"all\" reads lists, and {canonical} changes something")));
    }
    let params = members(raw_params).map_err(|why| Error::InvalidRequest(format!("\"params\" {why}")))?;
    let (version, resumed) = (steps.version(), cursor.is_some());
    let gap_before = cursor.as_ref().is_some_and(|cursor| cursor.gap);
    let mut way = fast_way(version, method, &params, cursor.as_ref())
        .map_or_else(|| slow_way(version, method, &params, cursor), Ok)?;
    let mut reader = Reader { steps, method, rows: Rows::default(), batch: FIRST_BATCH };
    let mut next = reader.page(&mut *way)?;
    loop {
        match next {
            Next::End | Next::Incomplete => break,
            Next::Unfit => {
                (way, reader.rows) = (slow_way(version, method, &params, None)?, Rows::default());
                next = reader.page(&mut *way)?;
                continue;
            }
            Next::Counts | Next::Discard if !reader.may_go_on(&*way) => break,
            Next::Counts | Next::Discard => {}
        }
        next = match reader.pages(&mut *way) {
            Ok(next) => next,
            // What was read so far is worth having; who goes on meets the error first.
            Err(error) if is_passing(&error) => break,
            Err(error) => return Err(error),
        };
        reader.steps.progress(reader.rows.count, way.total().and_then(|total| usize::try_from(total).ok()));
    }
    let is_doubted = (resumed && next == Next::Incomplete) || (gap_before && next == Next::End);
    if is_doubted && reader.rows.count == 0 {
        // Whoever goes on until the list is complete would never end.
        return Err(not_a_list(MORE_THAN_GIVEN));
    }
    let cursor = (next != Next::End).then(|| way.cursor().to_text(method));
    Ok(Listed { rows: reader.rows, total: way.total(), cursor })
}

type Way<'a> = Box<dyn Paging + 'a>;

/// `None` where it is not certainly right.
fn fast_way<'a>(
    version: Version,
    method: &Method,
    params: &'a [Parameter<'a>],
    cursor: Option<&Cursor>,
) -> Option<Way<'a>> {
    match version {
        Version::V2 => ById::of(method, params, cursor).map(|way| Box::new(way) as Way),
        Version::V3 => ByKey::of(params, cursor).map(|way| Box::new(way) as Way),
    }
}

fn slow_way<'a>(
    version: Version,
    method: &Method,
    params: &'a [Parameter<'a>],
    cursor: Option<Cursor>,
) -> Result<Way<'a>> {
    Ok(match version {
        Version::V2 => Box::new(ByStart::new(params, Family::of(method), cursor)?),
        Version::V3 => Box::new(ByOffset::new(params, cursor)?),
    })
}

/// Whether to answer what there is: reading changes nothing, so that a lost answer is as good as none.
fn is_passing(error: &Error) -> bool {
    error.executed() == Some(Executed::Unknown)
        || matches!(
            error,
            Error::RateLimited { .. }
                | Error::MethodBlocked { .. }
                | Error::PortalBlocked { .. }
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
    fn held(&self, way: &dyn Paging) -> usize {
        self.rows.text.len() + way.held()
    }

    fn may_go_on(&self, way: &dyn Paging) -> bool {
        self.steps.has_time() && self.steps.has_room(self.held(way))
    }

    /// One page on its own.
    fn page(&mut self, way: &mut dyn Paging) -> Result<Next> {
        let parameters = Parameters::of_inside(way.alone());
        let held = self.held(way);
        let body = self.steps.single(self.method, parameters, held)?.body;
        way.take(&RowPage::of_answer(&body)?, &mut self.rows)
    }

    /// As many pages as a batch takes.
    fn pages(&mut self, way: &mut dyn Paging) -> Result<Next> {
        let left = way.pages_left().map_or(MAX_COMMANDS, |left| usize::try_from(left).unwrap_or(MAX_COMMANDS));
        let Some(commands) = way.commands(&self.method.canonical(), left.clamp(1, self.batch)) else {
            return self.page(way);
        };
        let (held, count) = (self.held(way), commands.count());
        let body = self.steps.batch(commands, false, held)?.body;
        self.batch = match self.steps.last_took() {
            took if took > LONG_BATCH => (self.batch / 2).max(2),
            took if took > LONG_BATCH / 5 => self.batch,
            _ => (self.batch * 5).min(MAX_COMMANDS),
        };
        let answer = BatchAnswer::parse(&body).ok_or_else(|| bad_answer("it is not that of a batch"))?;
        self.steps.count_errors(&answer);
        for i in 0..count {
            match way.take(&RowPage::of_batch(&answer, &name(i))?, &mut self.rows)? {
                Next::Counts => {}
                next => return Ok(next),
            }
        }
        Ok(Next::Discard)
    }
}
