//! The source: what it uses, what it sends, what it reads.

use crate::bsl::{literal, of_kind, Module};
use crate::http_file;
use crate::language::value::Value;
use crate::language::world::World;
use crate::language::Machine;
use crate::platform;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn the_module_parses() {
    let module = Module::load();
    assert_eq!(module.errors(), [0; 0], "lines that do not parse");
    assert!(!module.text.starts_with('\u{feff}') && !module.text.contains('\r'));
    let long = module.text.lines().position(|line| line.chars().count() > 120);
    assert_eq!(long.map(|line| line + 1), None, "a line is too long");
    // The test itself: what is broken is seen.
    let broken = module.text.replacen("\n\tКонецЕсли;", "", 1);
    assert!(!Module::parse(broken).errors().is_empty());
}

#[test]
fn the_interface_is_what_the_readme_lists() {
    let module = Module::load();
    let public: BTreeSet<_> = module.functions().into_iter().filter(|f| f.exported).map(|f| f.name).collect();
    let readme = fs::read_to_string(crate::bsl::folder().join("README.ru.md")).unwrap();
    let table = readme.lines().skip_while(|line| !line.starts_with("| Функция |")).skip(2);
    let table = table.take_while(|line| line.starts_with("| `"));
    let mut listed: BTreeSet<_> =
        table.flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    // Exported for the background job only.
    listed.insert("Пауза");
    assert_eq!(public, listed);
    for function in module.functions().iter().filter(|f| f.exported) {
        let above = &module.text[..function.node.start_byte()];
        assert!(above.ends_with("//\n"), "{} has no description", function.name);
    }
}

/// The samples of the README and of the descriptions, in which a description's lines begin with `//  `.
fn samples(module: &Module) -> Vec<String> {
    let readme = fs::read_to_string(crate::bsl::folder().join("README.ru.md")).unwrap();
    let mut samples: Vec<_> = readme.split("```").skip(1).step_by(2).map(str::to_owned).collect();
    for sample in &mut samples {
        *sample = sample.strip_prefix("bsl\n").expect("only samples for 1C").to_owned();
    }
    for rest in module.text.split("// Пример:\n").skip(1) {
        let lines = rest.lines().map_while(|line| line.strip_prefix("//  "));
        samples.push(lines.flat_map(|line| [line, "\n"]).collect());
    }
    samples
}

#[test]
fn the_samples_parse_and_call_what_is_there() {
    let module = Module::load();
    let public: Vec<_> = module.functions().into_iter().filter(|f| f.exported).collect();
    let samples = samples(&module);
    assert!(samples.len() > 6, "{samples:?}");
    for text in samples {
        let sample = Module::parse(text);
        assert_eq!(sample.errors(), [0; 0], "lines that do not parse in\n{}", sample.text);
        for call in sample.calls(sample.root()).iter().filter(|call| call.receiver == "Битрикс24Прокси") {
            let function = public.iter().find(|f| f.name == call.name);
            let function = function.unwrap_or_else(|| panic!("{} is not there:\n{}", call.name, sample.text));
            let count = call.arguments.len();
            assert!((function.required..=function.parameters).contains(&count), "{} with {count}", call.name);
        }
    }
}

#[test]
fn only_what_platform_8_3_10_has_is_used_and_own_functions_get_their_arguments() {
    let module = Module::load();
    let own = module.functions();
    for call in module.calls(module.root()) {
        let at = format!("line {}: {}", call.line, call.name);
        if !call.receiver.is_empty() {
            let tried = platform::TRIED.iter().any(|(newer, _)| *newer == call.name);
            assert!(tried || platform::METHODS.contains(&call.name), "{at} on {}", call.receiver);
        } else if let Some(function) = own.iter().find(|f| f.name == call.name) {
            let count = call.arguments.len();
            assert!((function.required..=function.parameters).contains(&count), "{at} with {count} arguments");
        } else {
            assert!(platform::FUNCTIONS.contains(&call.name), "{at}");
        }
    }
    for (name, _) in module.constructed(module.root()) {
        assert!(platform::TYPES.contains(&name), "Новый {name}");
    }
    for node in of_kind(module.root(), "identifier") {
        assert!(!["Асинх", "Ждать"].contains(&module.text_of(node)));
    }
    for kind in ["AWAIT_KEYWORD", "ASYNC_KEYWORD", "await_expression"] {
        assert_eq!(of_kind(module.root(), kind).count(), 0, "{kind}");
    }
}

/// Each request of `deploy/1c/requests`, and the functions that build its body.
const BUILDERS: &[(&str, &[&str])] = &[
    ("events-bind.http", &["ЗапроситьСобытия"]),
    ("events-read.http", &["ЗапроситьСобытия"]),
    ("list-next.http", &["НовыеПоляЗапроса", "ПолучитьЧастьСписка"]),
    ("list.http", &["НовыеПоляЗапроса", "ПолучитьЧастьСписка"]),
    ("many-calls.http", &["НовыеПоляЗапроса", "ВыполнитьЧастьВызовов"]),
    ("one-call-rest3.http", &["НовыеПоляЗапроса", "ВызватьМетод"]),
    ("one-call.http", &["НовыеПоляЗапроса", "ВызватьМетод"]),
];

#[test]
fn the_bodies_of_the_requests_have_the_fields_of_the_module_in_its_order() {
    let module = Module::load();
    let files = http_file::of_the_module();
    assert!(files.iter().map(|f| f.name.as_str()).eq(BUILDERS.iter().map(|(name, _)| *name)), "see BUILDERS");
    let (mut built, mut sent) = (BTreeSet::new(), BTreeSet::new());
    for (file, (_, functions)) in files.iter().zip(BUILDERS) {
        let fields: Vec<_> = functions.iter().flat_map(|function| module.inserted(function, "Поля")).collect();
        let keys = file.keys();
        assert!(in_order(&keys, &fields), "{}: {keys:?}, the module: {fields:?}", file.name);
        built.extend(fields.into_iter().map(str::to_owned));
        sent.extend(keys);
    }
    assert_eq!(built, sent, "every field of the module is in one of the requests");
}

/// Whether all of `some` are among `all`, in the same order.
fn in_order(some: &[String], all: &[&str]) -> bool {
    let mut rest = all.iter();
    some.iter().all(|name| rest.any(|other| other == name))
}

#[test]
fn the_calls_of_many_have_the_fields_of_the_module() {
    let module = Module::load();
    let function = module.function("ВызовыЗапроса");
    let (_, arguments) = module.constructed(function).into_iter().find(|(name, _)| *name == "Структура").unwrap();
    let mut fields = vec![literal(arguments[0])];
    fields.extend(module.inserted("ВызовыЗапроса", "ПоляВызова"));
    let file = http_file::load("many-calls.http");
    let body = file.json();
    let calls = body["calls"].as_array().unwrap();
    let keys = |call: &serde_json::Value| call.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let all: BTreeSet<_> = calls.iter().flat_map(keys).collect();
    assert_eq!(all, fields.into_iter().map(str::to_owned).collect());
    // The key: that of the operation, a colon, the index of the first call.
    let function = module.function("ВыполнитьЧастьВызовов");
    assert!(module.text_of(function).contains("КлючЧасти(Результат.КлючИдемпотентности, Первый)"));
    assert!(file.header("Idempotency-Key").unwrap().ends_with(":0"));
}

#[test]
fn the_headers_of_the_requests_are_those_of_the_module() {
    let module = Module::load();
    let calls = module.calls(module.function("НовыйЗапрос"));
    let built: Vec<(&str, &str)> = calls
        .iter()
        .filter(|c| c.receiver == "Запрос.Заголовки" && c.name == "Вставить")
        .map(|c| (literal(c.arguments[0]), c.arguments[1]))
        .collect();
    let names: Vec<_> = built.iter().map(|(name, _)| *name).collect();
    let mut sent = BTreeSet::new();
    for file in http_file::of_the_module() {
        let own: Vec<_> = file.headers.iter().map(|(name, _)| name.clone()).collect();
        assert!(in_order(&own, &names), "{}: {own:?}, the module: {names:?}", file.name);
        for (name, value) in &file.headers {
            let expression = built.iter().find(|(n, _)| n == name).unwrap().1;
            let expected = match expression {
                r#""Bearer " + Подключение.Токен"# => "Bearer {{token}}",
                "Подключение.Токен" => "{{token}}",
                "Передача.ТипТела" => "application/json; charset=utf-8",
                "Передача.Ключ" => continue,
                text => literal(text),
            };
            assert_eq!(value, expected, "{}: {name}", file.name);
        }
        sent.extend(file.headers.into_iter().map(|(name, _)| name));
    }
    assert_eq!(sent, names.iter().map(|name| (*name).to_owned()).collect());
    // POST, UTF-8, no byte-order mark.
    let body = calls.iter().find(|c| c.name == "УстановитьТелоИзСтроки").unwrap();
    assert_eq!(body.arguments[1..], ["КодировкаТекста.UTF8", "ИспользованиеByteOrderMark.НеИспользовать"]);
    let all = module.calls(module.root());
    assert!(all.iter().any(|c| c.receiver == "Соединение" && c.name == "ОтправитьДляОбработки"));
}

/// Codes that the module itself gives.
pub const OWN_CODES: [&str; 7] =
    ["bad_answer", "calls_failed", "file_error", "in_transaction", "invalid_parameters", "no_answer", "not_sent"];

#[test]
fn every_code_and_name_that_the_module_compares_is_one_of_the_program() {
    let module = Module::load();
    let program = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for text in module.strings() {
        let word = text.contains('_') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if word && !OWN_CODES.contains(&text) {
            let there = program.contains(&format!("\"{text}\"")) || program.contains(&format!("\\\"{text}\\\""));
            // Fields of structures that are written by serde.
            assert!(there || program.contains(&format!("{text}:")), "the program does not know {text:?}");
        }
    }
}

/// Every `error_code` of the program.
pub fn codes_of_the_program() -> Vec<String> {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/values/error.rs")).unwrap();
    let codes = table.lines().filter_map(|line| line.split_once("=> (4").or_else(|| line.split_once("=> (5")));
    let codes = codes.filter_map(|(_, rest)| rest.split('"').nth(1)).chain(["bitrix24_error"]);
    codes.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

/// `ЭтоКодПрограммы`: the program's own codes in the results of many calls.
pub fn codes_in_results(module: &Module) -> Vec<&str> {
    let strings = of_kind(module.function("ЭтоКодПрограммы"), "string_content");
    strings.flat_map(|node| module.text_of(node).split(',')).filter(|code| !code.is_empty()).collect()
}

#[test]
fn the_codes_in_results_are_codes_of_the_program_in_capitals() {
    let module = Module::load();
    let codes = codes_in_results(&module);
    let program = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/values/error.rs")).unwrap();
    for code in &codes {
        assert_eq!(**code, code.to_ascii_uppercase());
        assert!(
            program.contains(&format!(", \"{}\"),", code.to_ascii_lowercase())),
            "the program does not know {code}"
        );
    }
    // A wait that would be too long ends the results; what is wrong with a call is found before any is sent.
    for other in ["BITRIX24_TIMEOUT", "INVALID_REQUEST", "OUTCOME_UNKNOWN", "REFRESH_PENDING"] {
        assert!(!codes.contains(&other), "{other}");
    }
}

pub fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        text += &if path.is_dir() { sources(&path) } else { fs::read_to_string(&path).unwrap() };
    }
    text
}

#[test]
fn only_a_method_that_changes_nothing_is_read_without_a_key_and_repeated() {
    let machine = Machine::new(World::without_network());
    let is_read = |method: &str| machine.call("ЭтоМетодЧтения", &[Value::text(method)]).unwrap().as_bool().unwrap();
    let reads = [
        "app.info",
        "catalog.product.getFields",
        "crm.item.get",
        "CRM.Item.List.json",
        "disk.folder.getchildren",
        "event.offline.list",
        "profile",
        "task.item.userfield.getList",
        "tasks.task.counters.get",
        "user.search",
    ];
    for method in reads {
        assert!(is_read(method), "{method}");
    }
    let writes = [
        "batch",
        "crm.item.add",
        "disk.file.getExternalLink",
        "event.offline.clear",
        // These two change what they answer.
        "event.offline.get",
        "im.notify.read.list",
        "im.search.last.add",
        "telephony.externalCall.searchCrmEntities",
    ];
    for method in writes {
        assert!(!is_read(method), "{method}");
    }
}

/// Within a function a variable hides the common module or the property of the platform that has its name.
#[test]
fn no_variable_has_the_name_of_a_module_or_of_the_platforms_own() {
    const TAKEN: &[&str] = &[
        "Битрикс24",
        "Битрикс24Прокси",
        "ОбщегоНазначения",
        "СтроковыеФункции",
        "Пользователи",
        "Символы",
        "Метаданные",
        "Справочники",
        "Документы",
        "Константы",
        "Перечисления",
        "РегистрыСведений",
        "ФоновыеЗадания",
        "РегламентныеЗадания",
        "ПараметрыСеанса",
        "ФайловыеПотоки",
        "ПользователиИнформационнойБазы",
        "ХранилищеОбщихНастроек",
        "КодировкаТекста",
    ];
    let module = Module::load();
    let assigned = of_kind(module.root(), "assignment_statement").filter_map(|node| node.child(0));
    let parameters = of_kind(module.root(), "parameter").filter_map(|node| node.child_by_field_name("name"));
    let loops = ["for_statement", "for_each_statement"].into_iter().flat_map(|kind| of_kind(module.root(), kind));
    let loops = loops.filter_map(|node| of_kind(node, "identifier").next());
    let names: BTreeSet<_> = assigned.chain(parameters).chain(loops).map(|node| module.text_of(node)).collect();
    assert!(names.len() > 50);
    for name in names {
        assert!(!TAKEN.contains(&name), "{name}");
        assert!(!["Ждать", "Асинх"].contains(&name), "{name}");
    }
}

/// As in the documents.
#[test]
fn the_modules_texts_are_spelt_with_yo() {
    let module = Module::load();
    const WITHOUT: &[&str] = &[
        "еще",
        "ее",
        "нее",
        "ждет",
        "передает",
        "передается",
        "создает",
        "создается",
        "счет",
        "сохранен",
        "сохраненный",
        "сохраненные",
        "учетом",
        "свое",
        "определен",
        "определенный",
        "узнает",
        "вернет",
        "найдет",
        "идет",
        "придет",
    ];
    for (i, line) in module.text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
        let wrong: Vec<_> = words.filter(|word| WITHOUT.contains(&word.as_str())).collect();
        assert!(wrong.is_empty(), "line {}: {wrong:?}", i + 1);
    }
}
