//! The platform's global functions.

use super::value::{plain, raise, same, Object, Outcome, Value};
use super::{json, time, Machine, MODULE};
use std::rc::Rc;

type Given = Vec<Option<Value>>;

pub fn date_of_digits(digits: &str) -> Outcome {
    let part = |from: usize, to: usize| digits.get(from..to).map_or(0, |text| text.parse().expect("digits"));
    date([part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14)])
}

fn date(parts: [i64; 6]) -> Outcome {
    let [year, month, day, hour, minute, second] = parts;
    match time::seconds(year, month, day, hour, minute, second) {
        Some(seconds) => Ok(Value::Date(seconds)),
        None => raise("Преобразование к типу Дата"),
    }
}

/// Offsets of zones that tests name; the session's otherwise.
fn offset(machine: &Machine, zone: &Value) -> i64 {
    match &*zone.as_text() {
        "Asia/Yekaterinburg" => 5 * 3600,
        "America/St_Johns" => -(3 * 3600 + 1800),
        "GMT" => 0,
        "" | "Europe/Moscow" => machine.world.borrow().zone,
        other => panic!("the zone {other}"),
    }
}

fn pick(text: &str, from: f64, count: f64) -> String {
    let from = from.max(1.0) as usize - 1;
    text.chars().skip(from).take(count.max(0.0) as usize).collect()
}

pub fn call(machine: &Machine, name: &str, given: Given) -> Outcome {
    let value = |i: usize| given.get(i).cloned().flatten().unwrap_or(Value::Undefined);
    let text = |i: usize| value(i).as_text();
    let number = |i: usize| value(i).as_number();
    let is_given = |i: usize| given.get(i).is_some_and(Option::is_some);
    let whole = |found: Option<usize>, text: &str| found.map_or(0, |at| text[..at].chars().count() + 1);
    let given_count = given.len();
    Ok(match name {
        "ВРег" => Value::text(text(0).to_uppercase()),
        "НРег" => Value::text(text(0).to_lowercase()),
        "СокрЛП" => Value::text(text(0).trim()),
        "СокрП" => Value::text(text(0).trim_end()),
        "Лев" => Value::text(pick(&text(0), 1.0, number(1)?)),
        "Прав" => {
            let (text, count) = (text(0), number(1)?);
            Value::text(pick(&text, text.chars().count() as f64 - count + 1.0, count))
        }
        "Сред" => Value::text(pick(&text(0), number(1)?, if is_given(2) { number(2)? } else { f64::MAX })),
        "СтрДлина" => Value::Number(text(0).chars().count() as f64),
        "СтрНайти" => Value::Number(whole(text(0).find(&*text(1)), &text(0)) as f64),
        "СтрЗаменить" => Value::text(text(0).replace(&*text(1), &text(2))),
        "СтрЧислоВхождений" => Value::Number(text(0).matches(&*text(1)).count() as f64),
        "СтрНачинаетсяС" => Value::Boolean(text(0).starts_with(&*text(1))),
        "СтрЗаканчиваетсяНа" => Value::Boolean(text(0).ends_with(&*text(1))),
        "СтрРазделить" => {
            let (text, separators) = (text(0), text(1));
            let keep = !is_given(2) || value(2).as_bool()?;
            let parts = text.split(|c| separators.contains(c)).filter(|part| keep || !part.is_empty());
            Value::array(parts.map(Value::text).collect())
        }
        "СтрСоединить" => {
            let parts: Vec<_> = value(0).items().iter().map(Value::show).collect();
            Value::text(parts.join(&text(1)))
        }
        "СтрШаблон" => {
            let texts = (1..given_count).rev();
            Value::text(texts.fold(text(0).to_string(), |all, i| all.replace(&format!("%{i}"), &value(i).show())))
        }
        "НСтр" => {
            let text = text(0);
            let inner = text.split_once("ru = '").and_then(|(_, rest)| rest.rsplit_once('\''));
            Value::text(inner.unwrap_or_else(|| panic!("not a text of a language: {text}")).0.replace("''", "'"))
        }
        "КодСимвола" => {
            let at = if is_given(1) { number(1)? } else { 1.0 };
            let character = text(0).chars().nth(at as usize - 1);
            Value::Number(f64::from(character.map_or(0, u32::from)))
        }
        "Символ" => Value::text(char::from_u32(number(0)? as u32).expect("a character").to_string()),
        "Строка" => Value::text(value(0).show()),
        "Число" => Value::Number(value(0).as_number()?),
        "Цел" => Value::Number(number(0)?.trunc()),
        "Макс" | "Мин" => {
            let mut all = (0..given_count).map(number).collect::<Outcome<Vec<_>>>()?;
            all.sort_by(f64::total_cmp);
            Value::Number(if name == "Мин" { all[0] } else { all[all.len() - 1] })
        }
        "Дата" => {
            let mut parts = [0; 6];
            for (i, part) in parts.iter_mut().enumerate().take(given_count) {
                *part = number(i)? as i64;
            }
            return date(parts);
        }
        "НачалоДня" => match value(0) {
            Value::Date(at) => Value::Date(at - at.rem_euclid(86400)),
            other => panic!("no date: {other:?}"),
        },
        "УниверсальноеВремя" | "МестноеВремя" => {
            let Value::Date(at) = value(0) else { return raise("Преобразование к типу Дата") };
            let zone = offset(machine, &value(1));
            Value::Date(if name == "МестноеВремя" { at + zone } else { at - zone })
        }
        "ЧасовойПоясСеанса" => Value::text("Europe/Moscow"),
        "ТекущаяУниверсальнаяДатаВМиллисекундах" => {
            Value::Number(machine.world.borrow().clock)
        }
        "ТекущаяУниверсальнаяДата" => {
            Value::Date((machine.world.borrow().clock / 1000.0) as i64)
        }
        "ТекущаяДатаСеанса" => {
            let world = machine.world.borrow();
            Value::Date((world.clock / 1000.0) as i64 + world.zone)
        }
        "Формат" => Value::text(formatted(&value(0), &text(1))),
        "ЗначениеЗаполнено" => Value::Boolean(value(0).is_filled()),
        "Тип" => Value::Type(text(0).to_string()),
        "ТипЗнч" => Value::Type(value(0).type_name()),
        "ЗаполнитьЗначенияСвойств" => {
            let (to, from) = (value(0), value(1));
            for name in text(2).split(',').map(str::trim) {
                to.set_field(name, from.field(name).unwrap_or_else(|| panic!("there is no {name}")));
            }
            Value::Undefined
        }
        "ИнформацияОбОшибке" => {
            let caught = machine.caught.borrow();
            let raised = caught.last().map_or(String::new(), |raised| raised.0.clone());
            Value::other("ИнформацияОбОшибке", &[("Описание", Value::text(raised))])
        }
        "КраткоеПредставлениеОшибки" => value(0).at("Описание"),
        "ПрочитатьJSON" => {
            assert!(value(1).as_bool()?, "into maps");
            return json::read(&value(0).at("Текст").as_text(), machine.world.borrow().lenient_reader);
        }
        "Base64Строка" => {
            // With the line breaks that the platform makes.
            let all = base64(&bytes(&value(0)));
            let lines: Vec<_> = all.as_bytes().chunks(76).map(|l| std::str::from_utf8(l).expect("ASCII")).collect();
            Value::text(lines.join("\r\n"))
        }
        "ПолучитьДвоичныеДанныеИзСтроки" => Value::binary(text(0).as_bytes()),
        "ПолучитьСтрокуИзДвоичныхДанных" => {
            Value::text(String::from_utf8_lossy(&bytes(&value(0))))
        }
        "КодироватьСтроку" => {
            let encoded = serde_urlencoded::to_string([("", &*text(0))]).expect("a text");
            Value::text(encoded.trim_start_matches('=').replace('+', "%20"))
        }
        "ПолучитьИмяВременногоФайла" => {
            let mut world = machine.world.borrow_mut();
            let name = format!("{}.{}", world.uuid().show(), text(0));
            Value::text(world.folder.join(name).to_str().expect("UTF-8"))
        }
        "УдалитьФайлы" => {
            let path = text(0);
            match std::fs::remove_file(&*path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return raise(error.to_string()),
                _ => Value::Undefined,
            }
        }
        "ПереместитьФайл" => match std::fs::rename(&*text(0), &*text(1)) {
            Err(error) => return raise(error.to_string()),
            Ok(()) => Value::Undefined,
        },
        "ПолучитьТекущийСеансИнформационнойБазы" => {
            Value::other("СеансИнформационнойБазы", &[])
        }
        "ТранзакцияАктивна" => Value::Boolean(machine.world.borrow().in_transaction),
        "ЗаписьЖурналаРегистрации" => {
            let line = [text(0), text(1), text(4)].map(|text| text.to_string());
            machine.world.borrow_mut().log.push(line);
            Value::Undefined
        }
        "Сообщить" => {
            let text = text(0).to_string();
            machine.world.borrow_mut().messages.push(text);
            Value::Undefined
        }
        "XMLСтрока" => match &value(0) {
            Value::Object(object) => match &**object {
                Object::Reference { id, .. } => Value::text(id),
                _ => return raise("Отображение типов"),
            },
            other => Value::text(other.show()),
        },
        // Of the infobase: nothing is locked here.
        "ЗаблокироватьДанныеДляРедактирования"
        | "РазблокироватьДанныеДляРедактирования"
        | "УстановитьПривилегированныйРежим" => Value::Undefined,
        _ => panic!("there is no {name}(…) here"),
    })
}

/// `ЧН`, `ЧГ`, `ЧЦ`, `ЧВН` of numbers, `ДФ` of dates.
fn formatted(value: &Value, picture: &str) -> String {
    let settings: Vec<_> = picture.split(';').filter_map(|part| part.trim().split_once('=')).collect();
    let setting = |name: &str| settings.iter().find(|(n, _)| same(n, name)).map(|(_, value)| *value);
    match value {
        Value::Date(seconds) => time::format(*seconds, setting("ДФ").expect("a picture of a date")),
        Value::Number(0.0) if setting("ЧН").is_some_and(|zero| !zero.is_empty()) => setting("ЧН").unwrap().to_owned(),
        // Without a picture a zero is an empty text.
        Value::Number(0.0) if setting("ЧН").is_none() => String::new(),
        Value::Number(number) => {
            let shown = if setting("ЧГ") == Some("0") { plain(*number).replace('.', ",") } else { value.show() };
            match (setting("ЧЦ"), setting("ЧВН")) {
                (Some(width), Some(_)) => format!("{shown:0>width$}", width = width.parse().expect("a width")),
                _ => shown,
            }
        }
        other => other.show(),
    }
}

pub fn bytes(value: &Value) -> Vec<u8> {
    let Value::Object(object) = value else { panic!("no binary data: {value:?}") };
    let Object::Binary(bytes) = &**object else { panic!("no binary data: {value:?}") };
    bytes.clone()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let all = three.iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let letter = LETTERS[(all >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i <= three.len() { letter } else { '=' });
        }
    }
    out
}

/// Waits for a background job, as the platform of this world does.
pub fn wait(machine: &Machine, method: &str, seconds: f64) -> Outcome {
    use super::world::Waiting;
    let mut world = machine.world.borrow_mut();
    let newer = method == "ОжидатьЗавершенияВыполнения";
    match world.waiting {
        Waiting::NotAtAll => return Ok(Value::Undefined),
        Waiting::Since8_3_13 => assert!(newer, "the older method, which raises, is for older platforms"),
        Waiting::Before8_3_13 if newer => return raise(format!("Метод объекта не обнаружен ({method})")),
        _ => {}
    }
    assert!(seconds >= 1.0, "0 may mean: as long as it takes");
    world.clock += seconds * 1000.0;
    world.waits.push(seconds);
    if world.waiting == Waiting::Before8_3_13 {
        return raise("Время ожидания завершения фонового задания истекло");
    }
    Ok(Value::Undefined)
}

/// `ФоновыеЗадания.Выполнить`.
pub fn start_job(machine: &Machine, name: &str) -> Outcome {
    if machine.world.borrow().waiting == super::world::Waiting::Forbidden {
        return raise("Недостаточно прав");
    }
    let function = name.strip_prefix(MODULE).and_then(|name| name.strip_prefix('.'));
    let function = function.unwrap_or_else(|| panic!("a job of another module: {name}"));
    let function = machine.functions.get(function).unwrap_or_else(|| panic!("there is no {name}"));
    assert!(function.exported, "{name} is not exported");
    Ok(Value::other("ФоновоеЗадание", &[("Имя", Value::Text(Rc::from(name)))]))
}
