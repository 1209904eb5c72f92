//! Objects of the platform: how they are made, their properties and methods.

use super::builtins::{bytes, start_job, wait};
use super::json;
use super::value::{plain, raise, Object, Outcome, Value};
use super::world::Sent;
use super::Machine;
use std::fs;
use std::io::Write;

type Given = Vec<Option<Value>>;

/// What is there without having been made.
pub fn global(name: &str) -> Option<Value> {
    const OBJECTS: [&str; 4] = ["Символы", "ФоновыеЗадания", "ФайловыеПотоки", "Метаданные"];
    const ENUMERATIONS: [&str; 5] = [
        "КодировкаТекста",
        "ИспользованиеByteOrderMark",
        "ПереносСтрокJSON",
        "УровеньЖурналаРегистрации",
        "СпособКодированияСтроки",
    ];
    (OBJECTS.contains(&name) || ENUMERATIONS.contains(&name)).then(|| Value::other(name, &[]))
}

pub fn property(of: &Value, name: &str) -> Outcome {
    if let Some(value) = of.field(name) {
        return Ok(value);
    }
    if let Value::Object(object) = of {
        if let Object::Other { of, .. } = &**object {
            match (of.as_str(), name) {
                ("Символы", "ВК") => return Ok(Value::text("\r")),
                ("Символы", "ПС") => return Ok(Value::text("\n")),
                ("HTTPОтвет" | "HTTPЗапрос" | "Файл" | "ФоновоеЗадание" | "Строка таблицы", _) =>
                    {}
                // A value of an enumeration.
                _ => return Ok(Value::Text(format!("{of}.{name}").into())),
            }
        }
        if let (Object::Table { columns, .. }, "Колонки") = (&**object, name) {
            let columns = columns.borrow();
            let columns = columns.iter().map(|name| Value::structure(vec![("Имя".to_owned(), Value::text(name))]));
            let columns = Value::array(columns.collect());
            // To add to them leads back to the table.
            return Ok(Value::other("Колонки", &[("Все", columns), ("Таблица", of.clone())]));
        }
    }
    raise(format!("Поле объекта не обнаружено ({name})"))
}

/// What a loop goes through.
pub fn elements(of: &Value) -> Outcome<Vec<Value>> {
    let pair =
        |key: Value, value: Value| Value::structure(vec![("Ключ".to_owned(), key), ("Значение".to_owned(), value)]);
    let Value::Object(object) = of else {
        return raise("Итератор для значения не определен");
    };
    Ok(match &**object {
        Object::Array(items) => items.borrow().clone(),
        Object::Structure(fields) => fields.borrow().iter().map(|(k, v)| pair(Value::text(k), v.clone())).collect(),
        // The order of a map is not defined: here it is never that of insertion.
        Object::Map(entries) => entries.borrow().iter().rev().map(|(k, v)| pair(k.clone(), v.clone())).collect(),
        Object::ValueList(items) => {
            let item = |(value, presentation): &(Value, String)| {
                let fields = [("Значение", value.clone()), ("Представление", Value::text(presentation))];
                Value::structure(fields.map(|(name, value)| (name.to_owned(), value)).to_vec())
            };
            items.borrow().iter().map(item).collect()
        }
        Object::Table { rows, .. } => rows.borrow().clone(),
        Object::Other { of: kind, .. } if kind == "Колонки" => of.at("Все").items(),
        _ => return raise("Итератор для значения не определен"),
    })
}

pub fn at(of: &Value, index: &Value) -> Outcome {
    let Value::Object(object) = of else {
        return raise("Значение не является значением объектного типа");
    };
    match &**object {
        Object::Array(items) => match items.borrow().get(index.as_index()?) {
            Some(value) => Ok(value.clone()),
            None => raise("Индекс находится за границами массива"),
        },
        Object::Map(entries) => {
            let entries = entries.borrow();
            Ok(entries.iter().find(|(key, _)| key.equals(index)).map_or(Value::Undefined, |(_, v)| v.clone()))
        }
        Object::Table { rows, .. } => Ok(rows.borrow()[index.as_index()?].clone()),
        _ => property(of, &index.as_text()),
    }
}

pub fn set_at(of: &Value, index: &Value, value: Value) -> Outcome<()> {
    let Value::Object(object) = of else {
        return raise("Значение не является значением объектного типа");
    };
    match &**object {
        Object::Array(items) => match items.borrow_mut().get_mut(index.as_index()?) {
            Some(old) => *old = value,
            None => return raise("Индекс находится за границами массива"),
        },
        Object::Map(_) => insert(of, index.clone(), value)?,
        _ if of.field(&index.as_text()).is_some() => of.set_field(&index.as_text(), value),
        _ => return raise("Поле объекта не обнаружено"),
    }
    Ok(())
}

fn insert(of: &Value, key: Value, value: Value) -> Outcome<()> {
    let Value::Object(object) = of else { panic!("no collection") };
    match &**object {
        Object::Structure(_) => {
            let name = key.as_text();
            let mut letters = name.chars();
            let begins = letters.next().is_some_and(|c| c.is_alphabetic() || c == '_');
            if !begins || !letters.all(|c| c.is_alphanumeric() || c == '_') {
                return raise(format!("Недопустимое имя ключа структуры ({name})"));
            }
            of.set_field(&name, value);
        }
        Object::Map(entries) => {
            let mut entries = entries.borrow_mut();
            match entries.iter_mut().find(|(k, _)| k.equals(&key)) {
                Some((_, old)) => *old = value,
                None => entries.push((key, value)),
            }
        }
        _ => panic!("nothing can be inserted into {of:?}"),
    }
    Ok(())
}

pub fn construct(machine: &Machine, name: &str, given: Given) -> Outcome {
    let value = |i: usize| given.get(i).cloned().flatten().unwrap_or(Value::Undefined);
    Ok(match name {
        "Структура" => {
            let structure = Value::structure(Vec::new());
            let names = value(0);
            for (i, name) in names.as_text().split(',').map(str::trim).filter(|name| !name.is_empty()).enumerate() {
                insert(&structure, Value::text(name), value(i + 1))?;
            }
            structure
        }
        "Соответствие" => Value::map(Vec::new()),
        "Массив" => Value::array(Vec::new()),
        "СписокЗначений" => Value::list(),
        "ТаблицаЗначений" => Value::table(),
        "УникальныйИдентификатор" => machine.world.borrow_mut().uuid(),
        "ДвоичныеДанные" => match fs::read(&*value(0).as_text()) {
            Ok(bytes) => Value::binary(bytes),
            Err(error) => return raise(error.to_string()),
        },
        "HTTPСоединение" => Value::other(
            name,
            &[
                ("Сервер", value(0)),
                ("Порт", value(1)),
                ("Прокси", value(4)),
                ("Таймаут", value(5)),
                ("Защита", value(6)),
            ],
        ),
        "HTTPЗапрос" => Value::other(
            name,
            &[("АдресРесурса", value(0)), ("Заголовки", Value::map(Vec::new())), ("Тело", Value::binary([]))],
        ),
        "ЗаписьJSON" => Value::other(name, &[("Текст", Value::text(""))]),
        "ЧтениеJSON" => Value::other(name, &[("Текст", Value::text(""))]),
        "Файл" => Value::other(name, &[("ПолноеИмя", value(0)), ("Имя", Value::text(base_name(&value(0))))]),
        // Of a file by its name, or of binary data.
        "ЧтениеДанных" => Value::other(name, &[("Откуда", value(0))]),
        "ЧтениеТекста" => match fs::read(&*value(0).as_text()) {
            Ok(bytes) => Value::other(name, &[("Текст", Value::text(String::from_utf8_lossy(&bytes)))]),
            Err(error) => return raise(error.to_string()),
        },
        "ПараметрыЗаписиJSON" | "ЗащищенноеСоединениеOpenSSL" | "СертификатыУдостоверяющихЦентровОС" => {
            Value::other(name, &[])
        }
        _ => panic!("there is no Новый {name} here"),
    })
}

fn base_name(path: &Value) -> String {
    path.as_text().rsplit('/').next().unwrap_or_default().to_owned()
}

pub fn method(machine: &Machine, of: &Value, name: &str, given: Given) -> Outcome {
    let value = |i: usize| given.get(i).cloned().flatten().unwrap_or(Value::Undefined);
    let Value::Object(object) = of else {
        return raise(format!("Значение не является значением объектного типа ({name})"));
    };
    Ok(match (&**object, name) {
        (Object::Array(items), "Добавить") => {
            items.borrow_mut().push(value(0));
            Value::Undefined
        }
        (Object::Array(items), "Количество") => Value::Number(items.borrow().len() as f64),
        (Object::Array(items), "ВГраница") => Value::Number(items.borrow().len() as f64 - 1.0),
        (Object::Array(items), "Найти") => {
            let found = items.borrow().iter().position(|item| item.equals(&value(0)));
            found.map_or(Value::Undefined, |at| Value::Number(at as f64))
        }
        (Object::Structure(_) | Object::Map(_), "Вставить") => {
            insert(of, value(0), value(1))?;
            Value::Undefined
        }
        (Object::Structure(fields), "Количество") => Value::Number(fields.borrow().len() as f64),
        (Object::Map(entries), "Количество") => Value::Number(entries.borrow().len() as f64),
        (Object::Structure(_), "Свойство") => Value::Boolean(of.field(&value(0).as_text()).is_some()),
        (Object::ValueList(items), "Добавить") => {
            items.borrow_mut().push((value(0), value(1).as_text().to_string()));
            Value::Undefined
        }
        (Object::ValueList(items), "СортироватьПоПредставлению") => {
            items.borrow_mut().sort_by(|(_, a), (_, b)| a.cmp(b));
            Value::Undefined
        }
        (Object::ValueList(items), "ВыгрузитьЗначения") => {
            Value::array(items.borrow().iter().map(|(value, _)| value.clone()).collect())
        }
        (Object::Table { columns, rows }, "Добавить") => {
            let fields = columns.borrow().iter().map(|name| (name.clone(), Value::Undefined)).collect();
            let row = Value::structure(fields);
            rows.borrow_mut().push(row.clone());
            row
        }
        (Object::Table { rows, .. }, "Количество") => Value::Number(rows.borrow().len() as f64),
        (Object::Reference { id, .. }, "УникальныйИдентификатор") => Value::uuid(id),
        (Object::Reference { .. }, "Пустая") => Value::Boolean(!of.is_filled()),
        (Object::Binary(bytes), "Размер") => Value::Number(bytes.len() as f64),
        (Object::Other { of: kind, .. }, _) => return of_platform(machine, of, kind, name, &value),
        _ => return raise(format!("Метод объекта не обнаружен ({name})")),
    })
}

fn of_platform(machine: &Machine, of: &Value, kind: &str, name: &str, value: &dyn Fn(usize) -> Value) -> Outcome {
    Ok(match (kind, name) {
        ("Колонки", "Добавить") => {
            let Value::Object(table) = of.at("Таблица") else { unreachable!() };
            let Object::Table { columns, .. } = &*table else { unreachable!() };
            columns.borrow_mut().push(value(0).as_text().to_string());
            Value::Undefined
        }
        ("ЗаписьJSON" | "ЧтениеJSON", "УстановитьСтроку") => {
            if kind == "ЧтениеJSON" {
                of.set_field("Текст", value(0));
            }
            Value::Undefined
        }
        ("ЗаписьJSON", "Закрыть") => of.at("Текст"),
        ("ЗаписьJSON", _) => return write_json(of, name, &value(0)),
        ("ЧтениеJSON" | "ЧтениеТекста" | "ЧтениеДанных" | "Поток", "Закрыть") => {
            Value::Undefined
        }
        ("ЧтениеТекста", "Прочитать") => {
            let text = of.at("Текст").as_text();
            let count = if value(0).is_undefined() { usize::MAX } else { value(0).as_index()? };
            let text: String = text.chars().take(count).collect();
            if text.is_empty() {
                Value::Undefined
            } else {
                Value::text(text)
            }
        }
        ("ФайловыеПотоки", "Создать") => match fs::write(&*value(0).as_text(), []) {
            Ok(()) => Value::other("Поток", &[("Имя", value(0))]),
            Err(error) => return raise(error.to_string()),
        },
        ("ЧтениеДанных", "КопироватьВ") => {
            let from = of.at("Откуда");
            let copied = if matches!(from, Value::Text(_)) {
                fs::read(&*from.as_text()).map_err(|error| super::value::Raised(error.to_string()))?
            } else {
                bytes(&from)
            };
            let to = value(0).at("Имя").as_text();
            let mut file = fs::OpenOptions::new().append(true).open(&*to).expect("it was made");
            file.write_all(&copied).expect("room on the disk");
            Value::Undefined
        }
        ("Файл", "Существует") => Value::Boolean(fs::metadata(&*of.at("ПолноеИмя").as_text()).is_ok()),
        ("Файл", "Размер") => match fs::metadata(&*of.at("ПолноеИмя").as_text()) {
            Ok(file) => Value::Number(file.len() as f64),
            Err(error) => return raise(error.to_string()),
        },
        ("Метаданные", "НайтиПоТипу") => {
            let Value::Type(of) = value(0) else { panic!("no type") };
            let stored = ["СправочникСсылка.", "ДокументСсылка.", "ПеречислениеСсылка.", "СправочникОбъект."];
            let found = stored.iter().any(|kind| of.starts_with(kind));
            if found {
                Value::other("ОбъектМетаданных", &[])
            } else {
                Value::Undefined
            }
        }
        ("СеансИнформационнойБазы", "ПолучитьФоновоеЗадание") => {
            Value::Undefined
        }
        ("ФоновыеЗадания", "Выполнить") => return start_job(machine, &value(0).as_text()),
        ("ФоновоеЗадание", "ОжидатьЗавершенияВыполнения" | "ОжидатьЗавершения") =>
        {
            return wait(machine, name, value(0).as_number()?);
        }
        ("HTTPЗапрос", "УстановитьТелоИзСтроки") => {
            assert_eq!(&*value(2).as_text(), "ИспользованиеByteOrderMark.НеИспользовать");
            of.set_field("Тело", Value::binary(value(0).as_text().as_bytes()));
            Value::Undefined
        }
        ("HTTPЗапрос", "УстановитьИмяФайлаТела") => match fs::read(&*value(0).as_text()) {
            Ok(bytes) => {
                of.set_field("Тело", Value::binary(bytes));
                Value::Undefined
            }
            Err(error) => return raise(error.to_string()),
        },
        ("HTTPСоединение", "ОтправитьДляОбработки") => {
            return send(machine, "POST", of, &value(0), &value(1))
        }
        ("HTTPСоединение", "Получить") => return send(machine, "GET", of, &value(0), &value(1)),
        ("HTTPОтвет", "ПолучитьТелоКакДвоичныеДанные") => of.at("Тело"),
        ("HTTPОтвет", "ПолучитьТелоКакСтроку") => {
            let body = bytes(&of.at("Тело"));
            Value::text(String::from_utf8_lossy(&body))
        }
        _ => return raise(format!("Метод объекта не обнаружен ({kind}.{name})")),
    })
}

fn write_json(of: &Value, name: &str, value: &Value) -> Outcome {
    let text = of.at("Текст").as_text().to_string();
    let separated = if text.is_empty() || text.ends_with(['{', '[', ':']) { "" } else { "," };
    let text = match name {
        "ЗаписатьНачалоОбъекта" => format!("{text}{separated}{{"),
        "ЗаписатьНачалоМассива" => format!("{text}{separated}["),
        "ЗаписатьКонецОбъекта" => text + "}",
        "ЗаписатьКонецМассива" => text + "]",
        "ЗаписатьИмяСвойства" => format!("{text}{separated}{}:", json::quoted(&value.as_text())),
        "ЗаписатьЗначение" => {
            let written = match value {
                Value::Undefined => "null".to_owned(),
                Value::Boolean(value) => value.to_string(),
                Value::Number(number) => plain(*number),
                Value::Text(text) => json::quoted(text),
                other => return raise(format!("Недопустимое значение {}", other.type_name())),
            };
            format!("{text}{separated}{written}")
        }
        _ => return raise(format!("Метод объекта не обнаружен ({name})")),
    };
    of.set_field("Текст", Value::text(text));
    Ok(Value::Undefined)
}

/// `file`: the name of the one that the answer goes to.
fn send(machine: &Machine, verb: &'static str, connection: &Value, request: &Value, file: &Value) -> Outcome {
    let secure = if connection.at("Защита").is_undefined() { "http" } else { "https" };
    let headers = elements(&request.at("Заголовки"))?.into_iter();
    let sent = Sent {
        verb,
        address: format!("{secure}://{}:{}", connection.at("Сервер").show(), plain(connection.at("Порт").as_number()?)),
        target: request.at("АдресРесурса").as_text().to_string(),
        headers: headers.map(|h| (h.at("Ключ").show(), h.at("Значение").show())).collect(),
        body: bytes(&request.at("Тело")),
        timeout: connection.at("Таймаут").as_number()?,
    };
    let received = match (machine.world.borrow_mut().network)(&sent) {
        Ok(received) => received,
        Err(why) => return raise(why),
    };
    if !file.is_undefined() {
        fs::write(&*file.as_text(), &received.body).expect("room on the disk");
    }
    let headers = received.headers.iter().map(|(name, value)| (Value::text(name), Value::text(value))).collect();
    let fields = [
        ("КодСостояния", Value::Number(f64::from(received.status))),
        ("Заголовки", Value::map(headers)),
        ("Тело", Value::binary(received.body)),
    ];
    Ok(Value::other("HTTPОтвет", &fields))
}
