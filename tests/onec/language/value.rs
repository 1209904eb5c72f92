//! Values of the language.

use std::cell::RefCell;
use std::rc::Rc;

#[derive(Clone, Debug)]
pub enum Value {
    Undefined,
    Null,
    Boolean(bool),
    Number(f64),
    Text(Rc<str>),
    /// Seconds since the first of January of the year 1.
    Date(i64),
    Type(String),
    Object(Rc<Object>),
}

/// What has an identity: an assignment copies the reference.
#[derive(Debug)]
pub enum Object {
    Array(RefCell<Vec<Value>>),
    /// In the order of insertion; names are compared in any case.
    Structure(RefCell<Vec<(String, Value)>>),
    Map(RefCell<Vec<(Value, Value)>>),
    /// Value and presentation.
    ValueList(RefCell<Vec<(Value, String)>>),
    Table {
        columns: RefCell<Vec<String>>,
        rows: RefCell<Vec<Value>>,
    },
    Uuid(String),
    Binary(Vec<u8>),
    /// A reference to a row of the infobase.
    Reference {
        of: String,
        id: String,
    },
    /// Anything else of the platform: its type and what it holds.
    Other {
        of: String,
        fields: RefCell<Vec<(String, Value)>>,
    },
}

/// An exception.
#[derive(Clone, Debug)]
pub struct Raised(pub String);

pub type Outcome<T = Value> = Result<T, Raised>;

pub fn raise<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Raised(text.into()))
}

pub fn same(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

impl Value {
    pub fn text(text: impl AsRef<str>) -> Value {
        Value::Text(text.as_ref().into())
    }

    fn object(object: Object) -> Value {
        Value::Object(Rc::new(object))
    }

    pub fn array(items: Vec<Value>) -> Value {
        Value::object(Object::Array(RefCell::new(items)))
    }

    pub fn structure(fields: Vec<(String, Value)>) -> Value {
        Value::object(Object::Structure(RefCell::new(fields)))
    }

    pub fn map(entries: Vec<(Value, Value)>) -> Value {
        Value::object(Object::Map(RefCell::new(entries)))
    }

    pub fn list() -> Value {
        Value::object(Object::ValueList(RefCell::default()))
    }

    pub fn table() -> Value {
        Value::object(Object::Table { columns: RefCell::default(), rows: RefCell::default() })
    }

    pub fn uuid(text: &str) -> Value {
        Value::object(Object::Uuid(text.to_owned()))
    }

    pub fn binary(bytes: impl Into<Vec<u8>>) -> Value {
        Value::object(Object::Binary(bytes.into()))
    }

    pub fn reference(of: &str, id: &str) -> Value {
        Value::object(Object::Reference { of: of.to_owned(), id: id.to_owned() })
    }

    pub fn other(of: &str, fields: &[(&str, Value)]) -> Value {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Value::object(Object::Other { of: of.to_owned(), fields: RefCell::new(fields) })
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined)
    }

    pub fn type_name(&self) -> String {
        match self {
            Value::Undefined => "Неопределено",
            Value::Null => "Null",
            Value::Boolean(_) => "Булево",
            Value::Number(_) => "Число",
            Value::Text(_) => "Строка",
            Value::Date(_) => "Дата",
            Value::Type(_) => "Тип",
            Value::Object(object) => match &**object {
                Object::Array(_) => "Массив",
                Object::Structure(_) => "Структура",
                Object::Map(_) => "Соответствие",
                Object::ValueList(_) => "СписокЗначений",
                Object::Table { .. } => "ТаблицаЗначений",
                Object::Uuid(_) => "УникальныйИдентификатор",
                Object::Binary(_) => "ДвоичныеДанные",
                Object::Reference { of, .. } | Object::Other { of, .. } => of,
            },
        }
        .to_owned()
    }

    pub fn as_bool(&self) -> Outcome<bool> {
        match self {
            Value::Boolean(value) => Ok(*value),
            Value::Number(value) => Ok(*value != 0.0),
            other => raise(format!("Преобразование к типу Булево: {}", other.type_name())),
        }
    }

    pub fn as_number(&self) -> Outcome<f64> {
        match self {
            Value::Number(value) => Ok(*value),
            Value::Boolean(value) => Ok(f64::from(u8::from(*value))),
            // White space around it is allowed, nothing else.
            Value::Text(text) => {
                let text = text.trim();
                let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.".contains(&b));
                match text.parse() {
                    Ok(number) if plain => Ok(number),
                    _ => raise(format!("Преобразование к типу Число: {text:?}")),
                }
            }
            other => raise(format!("Преобразование к типу Число: {}", other.type_name())),
        }
    }

    pub fn as_index(&self) -> Outcome<usize> {
        let number = self.as_number()?;
        if number < 0.0 || number.fract() != 0.0 {
            return raise("Индекс находится за границами");
        }
        Ok(number as usize)
    }

    /// `Строка(…)` in a Russian session.
    pub fn show(&self) -> String {
        match self {
            Value::Undefined | Value::Null => String::new(),
            Value::Boolean(value) => if *value { "Да" } else { "Нет" }.to_owned(),
            Value::Number(value) => grouped(*value),
            Value::Text(text) => text.to_string(),
            Value::Date(seconds) => super::time::format(*seconds, "dd.MM.yyyy H:mm:ss"),
            Value::Type(name) => name.clone(),
            Value::Object(object) => match &**object {
                Object::Uuid(id) => id.clone(),
                _ => self.type_name(),
            },
        }
    }

    /// A text, where nothing else may be.
    pub fn as_text(&self) -> Rc<str> {
        match self {
            Value::Text(text) => text.clone(),
            other => other.show().into(),
        }
    }

    /// The one with this name, of a structure or an object of the platform.
    pub fn field(&self, name: &str) -> Option<Value> {
        let Value::Object(object) = self else { return None };
        match &**object {
            Object::Structure(fields) | Object::Other { fields, .. } => {
                fields.borrow().iter().find(|(n, _)| same(n, name)).map(|(_, value)| value.clone())
            }
            _ => None,
        }
    }

    pub fn set_field(&self, name: &str, value: Value) {
        let Value::Object(object) = self else { panic!("no object") };
        let (Object::Structure(fields) | Object::Other { fields, .. }) = &**object else { panic!("no fields") };
        let mut fields = fields.borrow_mut();
        match fields.iter_mut().find(|(n, _)| same(n, name)) {
            Some((_, old)) => *old = value,
            None => fields.push((name.to_owned(), value)),
        }
    }

    /// By a path like `Ошибка.КодОшибки`.
    pub fn at(&self, path: &str) -> Value {
        path.split('.').fold(self.clone(), |value, name| {
            value.field(name).unwrap_or_else(|| panic!("there is no {path} in {value:?}"))
        })
    }

    /// What stands under a text in a map.
    pub fn get(&self, key: &str) -> Value {
        let Value::Object(object) = self else { panic!("no map: {self:?}") };
        let Object::Map(entries) = &**object else { panic!("no map: {self:?}") };
        let entries = entries.borrow();
        let found = entries.iter().find(|(k, _)| k.equals(&Value::text(key)));
        found.map_or(Value::Undefined, |(_, value)| value.clone())
    }

    pub fn items(&self) -> Vec<Value> {
        let Value::Object(object) = self else { panic!("no array: {self:?}") };
        let Object::Array(items) = &**object else { panic!("no array: {self:?}") };
        items.borrow().clone()
    }

    pub fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined, Value::Undefined) | (Value::Null, Value::Null) => true,
            (Value::Boolean(a), Value::Boolean(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Date(a), Value::Date(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => same(a, b),
            (Value::Object(a), Value::Object(b)) => match (&**a, &**b) {
                (Object::Uuid(a), Object::Uuid(b)) => a == b,
                (Object::Reference { of, id }, Object::Reference { of: of_b, id: id_b }) => of == of_b && id == id_b,
                _ => Rc::ptr_eq(a, b),
            },
            _ => false,
        }
    }

    /// What `ЗначениеЗаполнено` says.
    pub fn is_filled(&self) -> bool {
        match self {
            Value::Undefined | Value::Null => false,
            Value::Boolean(_) | Value::Type(_) => true,
            Value::Number(value) => *value != 0.0,
            Value::Text(text) => !text.trim().is_empty(),
            Value::Date(seconds) => *seconds != 0,
            Value::Object(object) => match &**object {
                Object::Array(items) => !items.borrow().is_empty(),
                Object::Structure(fields) => !fields.borrow().is_empty(),
                Object::Map(entries) => !entries.borrow().is_empty(),
                Object::Reference { id, .. } => !id.is_empty(),
                _ => true,
            },
        }
    }
}

/// 1234567.5 as `1 234 567,5`, with no-break spaces.
fn grouped(value: f64) -> String {
    let text = plain(value.abs());
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push('\u{a0}');
        }
        out.push(digit);
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let comma = if rest.is_empty() { "" } else { "," };
    format!("{sign}{out}{comma}{rest}")
}

/// As JSON has it.
pub fn plain(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{}", value as i64);
    }
    value.to_string()
}
