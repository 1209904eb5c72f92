//! The portals' data: records in memory, and lists of them as Bitrix24 answers them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use crate::kinds::Quirk;
pub(crate) use crate::kinds::{kind_of, Id, Kind, KINDS};
use crate::php::{Array, Php};

pub(crate) const PAGE: usize = 50;

impl Kind {
    fn id_name(&self) -> &'static str {
        match self.id {
            Id::UpperText => "ID",
            _ => "id",
        }
    }

    fn id_value(&self, id: i64) -> Php {
        match self.id {
            Id::LowerNumber => id.into(),
            _ => id.to_string().into(),
        }
    }

    /// A record as it is answered; an empty `select`, or one with `*`, is everything.
    pub(crate) fn render(&self, id: i64, record: &Array, select: &[String]) -> Php {
        let everything = select.is_empty() || select.iter().any(|s| s == "*");
        let mut row = Array::new();
        let id_selected = everything || select.iter().any(|s| s.eq_ignore_ascii_case("id"));
        if id_selected && self.listing.quirk != Quirk::CountsPage {
            row.put(self.id_name(), self.id_value(id));
        }
        for (key, value) in record.iter() {
            let name = key.to_string();
            if everything || select.iter().any(|s| s.eq_ignore_ascii_case(&name)) {
                let value = match (self.id, value) {
                    (Id::UpperText, Php::Null | Php::Array(_)) => value.clone(),
                    (Id::UpperText, value) => value.to_text().into(),
                    (_, value) => value.clone(),
                };
                row.put(&name, value);
            }
        }
        row.into()
    }

    fn field_name(&self, name: &str) -> String {
        match self.id {
            Id::UpperText => name.to_ascii_uppercase(),
            _ => name.to_owned(),
        }
    }
}

#[derive(Default)]
pub(crate) struct Table {
    last: i64,
    records: BTreeMap<i64, Array>,
}

#[derive(Default)]
pub(crate) struct Store {
    tables: HashMap<String, Table>,
}

impl Store {
    /// `crm.item` has a table for each `entityTypeId`.
    pub(crate) fn table(&mut self, kind: &Kind, params: &Array) -> &mut Table {
        let name = match params.get_any_case("entityTypeId") {
            Some(id) if kind.prefix == "crm.item" => format!("crm.item {}", id.to_text()),
            _ => kind.prefix.to_owned(),
        };
        self.tables.entry(name).or_default()
    }

    /// Deletes records behind the methods' backs; how many were there.
    pub(crate) fn remove(&mut self, kind: &Kind, ids: impl IntoIterator<Item = i64>) -> usize {
        let table = self.table(kind, &Array::new());
        ids.into_iter().filter(|id| table.delete(*id)).count()
    }

    pub(crate) fn counts(&self) -> serde_json::Value {
        let count = |(name, table): (&String, &Table)| (name.clone(), table.records.len().into());
        serde_json::Value::Object(self.tables.iter().map(count).collect())
    }
}

impl Table {
    pub(crate) fn add(&mut self, kind: &Kind, fields: &Array) -> i64 {
        self.last += 1;
        let mut record = Array::new();
        for (key, value) in fields.iter() {
            if !key.to_string().eq_ignore_ascii_case("id") {
                record.put(&kind.field_name(&key.to_string()), value.clone());
            }
        }
        self.records.insert(self.last, record);
        self.last
    }

    pub(crate) fn get(&self, id: i64) -> Option<&Array> {
        self.records.get(&id)
    }

    pub(crate) fn update(&mut self, kind: &Kind, id: i64, fields: &Array) -> bool {
        let Some(record) = self.records.get_mut(&id) else {
            return false;
        };
        for (key, value) in fields.iter() {
            record.put(&kind.field_name(&key.to_string()), value.clone());
        }
        true
    }

    pub(crate) fn delete(&mut self, id: i64) -> bool {
        self.records.remove(&id).is_some()
    }

    /// The IDs that `filter` leaves, in `order`, at most `most` of them.
    pub(crate) fn find(&self, filter: &[Condition], order: &[(String, bool)], most: usize) -> Vec<i64> {
        let by_id = order.iter().all(|(name, descending)| name.eq_ignore_ascii_case("id") && !descending);
        let first = filter.iter().filter_map(Condition::least_id).max().unwrap_or(0);
        let records = self.records.range(first..);
        let matching = records.filter(|(id, record)| filter.iter().all(|c| c.holds(**id, record)));
        let mut ids: Vec<i64> = matching.map(|(id, _)| *id).take(if by_id { most } else { usize::MAX }).collect();
        if !by_id {
            ids.sort_by(|a, b| self.compare(*a, *b, order));
            ids.truncate(most);
        }
        ids
    }

    fn compare(&self, a: i64, b: i64, order: &[(String, bool)]) -> Ordering {
        for (name, descending) in order {
            let value = |id: i64| {
                let record = self.records.get(&id);
                field(id, record, name).unwrap_or(Php::Null)
            };
            let ordering = compare(&value(a), &value(b));
            let ordering = if *descending { ordering.reverse() } else { ordering };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        Ordering::Equal
    }
}

fn field(id: i64, record: Option<&Array>, name: &str) -> Option<Php> {
    if name.eq_ignore_ascii_case("id") {
        return Some(Php::Int(id));
    }
    record?.get_any_case(name).cloned()
}

/// Numbers as numbers, everything else as text.
fn compare(a: &Php, b: &Php) -> Ordering {
    match (a.to_float(), b.to_float()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.to_text().cmp(&b.to_text()),
    }
}

/// One line of a filter: `">ID": 5`.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) field: String,
    pub(crate) operator: &'static str,
    pub(crate) values: Vec<Php>,
}

/// The longer ones first.
const OPERATORS: &[&str] = &[">=", "<=", "!=", "!@", ">", "<", "@", "=", "!", "%"];

/// `{">ID": 5, "@STAGE_ID": ["NEW"]}`. An empty value for the ID is no condition: that is what
/// becomes of a `$result` that leads nowhere.
pub(crate) fn conditions(filter: &Array) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for (key, value) in filter.iter() {
        let key = key.to_string();
        let operator = OPERATORS.iter().find(|o| key.starts_with(**o)).copied();
        let field = key[operator.map_or(0, str::len)..].to_owned();
        let values: Vec<Php> = match value {
            Php::Array(array) => array.values().cloned().collect(),
            value => vec![value.clone()],
        };
        let is_empty = values.iter().all(|v| v.to_text().is_empty());
        if !(field.eq_ignore_ascii_case("id") && is_empty) {
            conditions.push(Condition { field, operator: operator.unwrap_or("="), values });
        }
    }
    conditions
}

impl Condition {
    /// Below this ID it never holds; so that long lists are read fast.
    fn least_id(&self) -> Option<i64> {
        match (self.operator, self.values.as_slice()) {
            (">", [value]) if self.field.eq_ignore_ascii_case("id") => value.to_int(),
            _ => None,
        }
    }

    fn holds(&self, id: i64, record: &Array) -> bool {
        let value = field(id, Some(record), &self.field).unwrap_or(Php::Null);
        let any = |test: &dyn Fn(Ordering) -> bool| self.values.iter().any(|v| test(compare(&value, v)));
        match self.operator {
            ">" => any(&Ordering::is_gt),
            ">=" => any(&Ordering::is_ge),
            "<" => any(&Ordering::is_lt),
            "<=" => any(&Ordering::is_le),
            "!" | "!=" | "!@" => !any(&Ordering::is_eq),
            "%" => self.values.iter().any(|v| {
                let part = v.to_text().to_lowercase();
                value.to_text().to_lowercase().contains(&part)
            }),
            _ => any(&Ordering::is_eq),
        }
    }
}

/// `{"ID": "DESC"}`
pub(crate) fn order(order: &Array) -> Vec<(String, bool)> {
    let descending = |v: &Php| v.to_text().to_ascii_lowercase().starts_with("desc");
    let pairs = order.iter();
    pairs.map(|(key, value)| (key.to_string(), descending(value))).collect()
}
