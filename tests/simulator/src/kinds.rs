//! The kinds of records, and what is peculiar to the lists of each: a table.

use crate::entities::{self, Condition, PAGE};
use crate::php::{Array, Php};

/// How a family of methods names and wraps its records.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// What stands before `.add`, `.list`, …
    pub(crate) prefix: &'static str,
    pub(crate) scope: &'static str,
    pub(crate) id: Id,
    /// The key of the list within `result`; empty where `result` is the list.
    pub(crate) many: &'static str,
    /// The key of the record within the answer of `add` and `get`; empty where `add` answers the ID.
    pub(crate) added: &'static str,
    pub(crate) one: &'static str,
    pub(crate) verbs: &'static [&'static str],
    pub(crate) listing: Listing,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Id {
    /// `"ID": "5"`, other names in capitals, values as strings.
    UpperText,
    /// `"id": "5"`
    LowerText,
    /// `"id": 5`
    LowerNumber,
}

/// How a list is asked for, and where it is not what one expects.
#[derive(Clone, Copy)]
pub(crate) struct Listing {
    pub(crate) verb: &'static str,
    /// The ID's name in filter, order and select; another one is passed over.
    pub(crate) id: &'static str,
    pub(crate) names: Names,
    /// What the filter must name, and a `select` contain, beside the ID.
    pub(crate) needs: Option<&'static str>,
    pub(crate) quirk: Quirk,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Names {
    /// `filter`, `order`, `select` in any case.
    Usual,
    /// `FILTER`, `ELEMENT_ORDER`, `SELECT` in capitals.
    Elements,
    /// `FILTER` or, without it, all parameters; `sort` and `order`; in any case.
    Users,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Quirk {
    None,
    /// Conditions on the ID are passed over.
    NotById,
    /// Rows have no ID; `total` is the number of the page's rows, and there is no `next`.
    CountsPage,
    /// All rows come at once, `start` or not.
    Whole,
}

const CRM: &[&str] = &["add", "get", "list", "update", "delete", "fields"];
const MOST: &[&str] = &["add", "get", "list", "update", "delete"];

const UPPER: Listing = Listing { verb: "list", id: "ID", names: Names::Usual, needs: None, quirk: Quirk::None };
const LOWER: Listing = Listing { id: "id", ..UPPER };

const fn crm(prefix: &'static str) -> Kind {
    Kind { prefix, scope: "crm", id: Id::UpperText, many: "", added: "", one: "", verbs: CRM, listing: UPPER }
}

const fn lower(prefix: &'static str, scope: &'static str, many: &'static str, one: &'static str) -> Kind {
    Kind { prefix, scope, id: Id::LowerNumber, many, added: one, one, verbs: MOST, listing: LOWER }
}

const fn product(prefix: &'static str, many: &'static str, one: &'static str) -> Kind {
    let listing = Listing { needs: Some("iblockId"), ..LOWER };
    Kind { added: "element", listing, ..lower(prefix, "catalog", many, one) }
}

const fn odd(kind: Kind, quirk: Quirk) -> Kind {
    Kind { listing: Listing { quirk, ..kind.listing }, ..kind }
}

pub(crate) const KINDS: &[Kind] = &[
    crm("crm.deal"),
    crm("crm.contact"),
    crm("crm.lead"),
    crm("crm.company"),
    crm("crm.quote"),
    crm("crm.activity"),
    crm("crm.product"),
    lower("crm.item", "crm", "items", "item"),
    lower("crm.item.productrow", "crm", "productRows", "productRow"),
    lower("crm.type", "crm", "types", "type"),
    Kind { id: Id::LowerText, listing: UPPER, ..lower("tasks.task", "task", "tasks", "task") },
    product("catalog.product", "products", "product"),
    product("catalog.product.offer", "offers", "offer"),
    product("catalog.product.sku", "units", "sku"),
    product("catalog.product.service", "services", "service"),
    lower("catalog.price", "catalog", "prices", "price"),
    lower("catalog.storeproduct", "catalog", "storeProducts", "storeProduct"),
    lower("catalog.store", "catalog", "stores", "store"),
    lower("catalog.document", "catalog", "documents", "document"),
    lower("catalog.productproperty", "catalog", "productProperties", "productProperty"),
    lower("sale.order", "sale", "orders", "order"),
    lower("sale.basketitem", "sale", "basketItems", "basketItem"),
    lower("sale.payment", "sale", "payments", "payment"),
    Kind {
        scope: "user",
        verbs: &["add", "get", "update"],
        listing: Listing { verb: "get", names: Names::Users, ..UPPER },
        ..crm("user")
    },
    Kind {
        scope: "lists",
        verbs: &["add", "get", "update", "delete"],
        listing: Listing { verb: "get", names: Names::Elements, ..UPPER },
        ..crm("lists.element")
    },
    Kind {
        scope: "department",
        verbs: &["add", "get", "update", "delete"],
        listing: Listing { verb: "get", quirk: Quirk::NotById, ..UPPER },
        ..crm("department")
    },
    odd(crm("crm.requisite"), Quirk::NotById),
    odd(crm("crm.address"), Quirk::CountsPage),
    odd(crm("crm.status"), Quirk::Whole),
];

/// `crm.deal.add` is the kind `crm.deal` and the verb `add`.
pub(crate) fn kind_of(method: &str) -> Option<(&'static Kind, &str)> {
    let (prefix, verb) = method.rsplit_once('.')?;
    let kind = KINDS.iter().find(|k| k.prefix == prefix)?;
    kind.verbs.contains(&verb).then_some((kind, verb))
}

/// What makes every list of a portal behave otherwise than it is known to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ListFault {
    /// Conditions on the ID are passed over, as older portals do in `user.get`.
    DeafToId,
    /// As is the order.
    DeafToOrder,
    /// Pages have at most so many rows, `start` moving by as many.
    PagesOf(usize),
    /// `total` always says so.
    Total(i64),
    /// Every row whose ID can be divided by it is counted and not shown.
    Hides(i64),
}

/// A list as it was asked for.
pub(crate) struct Asked {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) order: Vec<(String, bool)>,
    pub(crate) select: Vec<String>,
    start: i64,
}

/// The part of a list that is answered.
pub(crate) struct Part {
    pub(crate) ids: Vec<i64>,
    pub(crate) next: Option<i64>,
    pub(crate) total: Option<i64>,
}

fn array_of(value: Option<&Php>) -> Array {
    value.and_then(Php::as_array).cloned().unwrap_or_default()
}

impl Listing {
    /// The parameters as the method reads them; what it misses.
    pub(crate) fn asked(&self, params: &Array, fault: Option<ListFault>) -> Result<Asked, String> {
        let usual = |name: &str| array_of(params.get_any_case(name));
        let (filter, order, select) = match self.names {
            Names::Usual => (usual("filter"), usual("order"), usual("select")),
            Names::Elements => {
                let exact = |name: &str| array_of(params.get(name));
                (exact("FILTER"), exact("ELEMENT_ORDER"), exact("SELECT"))
            }
            Names::Users => {
                let text = |name: &str| params.get_any_case(name).map(Php::to_text).unwrap_or_default();
                let filter = match params.get_any_case("filter") {
                    Some(Php::Array(filter)) => filter.clone(),
                    _ => conditions_among(params),
                };
                (filter, Array::new().with(&text("sort"), text("order")), usual("select"))
            }
        };
        let select: Vec<String> = select.values().map(Php::to_text).collect();
        self.check_needs(&filter, &select)?;
        let is_other_id = |field: &str| field.eq_ignore_ascii_case("id") && field != self.id;
        let mut conditions = entities::conditions(&filter);
        conditions.retain(|condition| !is_other_id(&condition.field));
        if self.quirk == Quirk::NotById || fault == Some(ListFault::DeafToId) {
            conditions.retain(|condition| !condition.field.eq_ignore_ascii_case("id"));
        }
        let mut order = entities::order(&order);
        order.retain(|(field, _)| !is_other_id(field) && fault != Some(ListFault::DeafToOrder));
        if fault == Some(ListFault::DeafToOrder) {
            order.push(("id".to_owned(), true));
        }
        let start = params.get_any_case("start").and_then(Php::to_int).unwrap_or(0);
        Ok(Asked { conditions, order, select, start })
    }

    fn check_needs(&self, filter: &Array, select: &[String]) -> Result<(), String> {
        let Some(needed) = self.needs else { return Ok(()) };
        if !entities::conditions(filter).iter().any(|condition| condition.field == needed) {
            return Err(format!("Required filter fields: {needed}"));
        }
        let has = |name: &str| select.iter().any(|field| field == name || field == "*");
        if !(select.is_empty() || has(self.id) && has(needed)) {
            return Err(format!("Required select fields: {needed}, {}", self.id));
        }
        Ok(())
    }

    /// How many rows must be found: without counting, a page.
    pub(crate) fn most(&self, asked: &Asked) -> usize {
        if asked.start < 0 && self.quirk == Quirk::None {
            PAGE
        } else {
            usize::MAX
        }
    }

    /// What is answered of all rows that were found.
    pub(crate) fn part(&self, asked: &Asked, found: &[i64], fault: Option<ListFault>) -> Part {
        if self.quirk == Quirk::Whole {
            return Part { ids: found.to_vec(), next: None, total: Some(found.len() as i64) };
        }
        let page = match fault {
            Some(ListFault::PagesOf(rows)) => rows.clamp(1, PAGE),
            _ => PAGE,
        };
        let counted = asked.start >= 0;
        let from = asked.start.max(0) as usize;
        let mut ids: Vec<i64> = found.iter().skip(from).take(page).copied().collect();
        let mut total = found.len() as i64;
        match fault {
            Some(ListFault::Total(number)) => total = number,
            Some(ListFault::Hides(every)) => ids.retain(|id| id % every != 0),
            _ => {}
        }
        if self.quirk == Quirk::CountsPage {
            return Part { next: None, total: Some(ids.len() as i64), ids };
        }
        let next = counted && from + page < found.len();
        Part { ids, next: next.then_some((from + page) as i64), total: counted.then_some(total) }
    }
}

/// Of `user.get`, where there is no `FILTER`: whatever is none of its other parameters.
fn conditions_among(params: &Array) -> Array {
    let others = ["sort", "order", "start", "select", "admin_mode", "auth", "access_token"];
    let own = params.iter().filter(|(key, _)| !others.contains(&key.to_string().to_ascii_lowercase().as_str()));
    own.fold(Array::new(), |conditions, (key, value)| conditions.with(&key.to_string(), value.clone()))
}
