//! Runs a module in 1C's language: as much of the language and of the platform as the module and the samples use.
//!
//! What is not known here ends the test with its name, it raises no exception: no `Попытка` of the module hides it.
//! Where platforms differ, [`world::World`] says which one this is.

mod builtins;
mod json;
mod objects;
mod syntax;
mod time;
pub mod value;
pub mod world;

use crate::bsl::Module;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use syntax::{Arguments, Expression, Function, Statement};
use value::{raise, Outcome, Raised, Value};
use world::World;

/// The name by which the module is known to itself and to others.
pub const MODULE: &str = "Битрикс24Прокси";

type Cell = Rc<RefCell<Value>>;
type Locals = HashMap<String, Cell>;
type Functions = Rc<HashMap<String, Rc<Function>>>;
type Stub<'w> = Box<dyn Fn(&[Value]) -> Outcome + 'w>;

pub struct Machine<'w> {
    functions: Functions,
    pub world: RefCell<World<'w>>,
    /// What a sample takes for granted, by its whole name: `Name`, `Module.Name`, `Константы.Name.Получить`.
    stubs: HashMap<String, Stub<'w>>,
    /// What is being caught, the innermost last.
    caught: RefCell<Vec<Raised>>,
}

enum Flow {
    Next,
    Break,
    Continue,
    Return(Value),
}

impl<'w> Machine<'w> {
    /// The shipped module.
    pub fn new(world: World<'w>) -> Machine<'w> {
        thread_local! {
            static SHIPPED: Functions = functions(&Module::load());
        }
        Machine {
            functions: SHIPPED.with(Rc::clone),
            world: RefCell::new(world),
            stubs: HashMap::new(),
            caught: RefCell::default(),
        }
    }

    pub fn stub(&mut self, name: &str, stub: impl Fn(&[Value]) -> Outcome + 'w) {
        self.stubs.insert(name.to_owned(), Box::new(stub));
    }

    /// Calls a function of the module, exported or not.
    pub fn call(&self, name: &str, arguments: &[Value]) -> Outcome {
        let cells = arguments.iter().map(|value| Some(cell(value.clone()))).collect();
        self.run(&self.functions.get(name).unwrap_or_else(|| panic!("there is no {name}")).clone(), cells)
    }

    /// Runs code outside of the module, with these variables; what they are at its end.
    pub fn fragment(&self, text: &str, variables: &[(&str, Value)]) -> Outcome<HashMap<String, Value>> {
        let (functions, statements) = syntax::read(&Module::parse(text.to_owned()));
        let mut locals: Locals =
            variables.iter().map(|(name, value)| ((*name).to_owned(), cell(value.clone()))).collect();
        let frame = Frame { machine: self, functions: Some(&functions) };
        frame.block(&statements, &mut locals)?;
        Ok(locals.into_iter().map(|(name, value)| (name, value.borrow().clone())).collect())
    }

    /// Calls a function of a fragment.
    pub fn call_in(&self, text: &str, name: &str, arguments: &[Value]) -> Outcome {
        let (functions, _) = syntax::read(&Module::parse(text.to_owned()));
        let function = functions.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("there is no {name}"));
        let cells = arguments.iter().map(|value| Some(cell(value.clone()))).collect();
        Frame { machine: self, functions: Some(&functions) }.run(function, cells)
    }

    fn run(&self, function: &Rc<Function>, arguments: Vec<Option<Cell>>) -> Outcome {
        Frame { machine: self, functions: None }.run(function, arguments)
    }
}

fn functions(module: &Module) -> Functions {
    let (functions, outside) = syntax::read(module);
    assert!(outside.is_empty(), "a common module holds functions only");
    Rc::new(functions.into_iter().map(|f| (f.name.clone(), f)).collect())
}

fn cell(value: Value) -> Cell {
    Rc::new(RefCell::new(value))
}

/// Where code runs: in the module, or in a fragment with functions of its own.
struct Frame<'m, 'w> {
    machine: &'m Machine<'w>,
    /// `None`: in the module, which sees all of its functions.
    functions: Option<&'m [Rc<Function>]>,
}

impl Frame<'_, '_> {
    fn run(&self, function: &Rc<Function>, arguments: Vec<Option<Cell>>) -> Outcome {
        assert!(arguments.len() <= function.parameters.len(), "too many arguments for {}", function.name);
        let mut locals = Locals::new();
        let mut arguments = arguments.into_iter();
        for parameter in &function.parameters {
            let given = arguments.next().flatten();
            let value = match (given, &parameter.default) {
                (Some(value), _) if parameter.by_value => cell(value.borrow().clone()),
                (Some(value), _) => value,
                (None, Some(default)) => cell(self.value(default, &mut Locals::new())?),
                (None, None) => panic!("{} of {} is not given", parameter.name, function.name),
            };
            locals.insert(parameter.name.clone(), value);
        }
        match self.block(&function.body, &mut locals)? {
            Flow::Return(value) => Ok(value),
            _ => Ok(Value::Undefined),
        }
    }

    fn block(&self, statements: &[Statement], locals: &mut Locals) -> Outcome<Flow> {
        for statement in statements {
            match self.statement(statement, locals)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&self, statement: &Statement, locals: &mut Locals) -> Outcome<Flow> {
        match statement {
            Statement::Assign(target, value) => {
                let value = self.value(value, locals)?;
                self.assign(target, value, locals)?;
            }
            Statement::Call(call) => {
                self.value(call, locals)?;
            }
            Statement::Return(value) => {
                let value = value.as_ref().map(|value| self.value(value, locals)).transpose()?;
                return Ok(Flow::Return(value.unwrap_or(Value::Undefined)));
            }
            Statement::If(cases, otherwise) => {
                for (condition, body) in cases {
                    if self.value(condition, locals)?.as_bool()? {
                        return self.block(body, locals);
                    }
                }
                return self.block(otherwise, locals);
            }
            Statement::While(condition, body) => {
                let mut rounds = 0;
                while self.value(condition, locals)?.as_bool()? {
                    rounds += 1;
                    assert!(rounds < 1_000_000, "this does not end");
                    match self.block(body, locals)? {
                        Flow::Break => break,
                        Flow::Return(value) => return Ok(Flow::Return(value)),
                        Flow::Next | Flow::Continue => {}
                    }
                }
            }
            Statement::For(name, from, to, body) => {
                let mut at = self.value(from, locals)?.as_number()?;
                while at <= self.value(to, locals)?.as_number()? {
                    set(locals, name, Value::Number(at));
                    match self.block(body, locals)? {
                        Flow::Break => break,
                        Flow::Return(value) => return Ok(Flow::Return(value)),
                        Flow::Next | Flow::Continue => {}
                    }
                    at += 1.0;
                }
            }
            Statement::ForEach(name, collection, body) => {
                for value in objects::elements(&self.value(collection, locals)?)? {
                    set(locals, name, value);
                    match self.block(body, locals)? {
                        Flow::Break => break,
                        Flow::Return(value) => return Ok(Flow::Return(value)),
                        Flow::Next | Flow::Continue => {}
                    }
                }
            }
            Statement::Try(body, otherwise) => match self.block(body, locals) {
                Ok(flow) => return Ok(flow),
                Err(raised) => {
                    self.machine.caught.borrow_mut().push(raised);
                    let flow = self.block(otherwise, locals);
                    self.machine.caught.borrow_mut().pop();
                    return flow;
                }
            },
            Statement::Raise(Some(text)) => return raise(self.value(text, locals)?.show()),
            Statement::Raise(None) => {
                return Err(self.machine.caught.borrow().last().expect("something is caught").clone());
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn assign(&self, target: &Expression, value: Value, locals: &mut Locals) -> Outcome<()> {
        match target {
            Expression::Variable(name) => set(locals, name, value),
            Expression::Property(of, name) => {
                let of = self.value(of, locals)?;
                if of.field(name).is_none() {
                    return raise(format!("Поле объекта не обнаружено ({name})"));
                }
                of.set_field(name, value);
            }
            Expression::Index(of, index) => {
                let (of, index) = (self.value(of, locals)?, self.value(index, locals)?);
                objects::set_at(&of, &index, value)?;
            }
            _ => panic!("nothing can be assigned to {target:?}"),
        }
        Ok(())
    }

    fn value(&self, expression: &Expression, locals: &mut Locals) -> Outcome {
        Ok(match expression {
            Expression::Undefined => Value::Undefined,
            Expression::Null => Value::Null,
            Expression::Boolean(value) => Value::Boolean(*value),
            Expression::Number(value) => Value::Number(*value),
            Expression::Text(text) => Value::text(text),
            Expression::Date(digits) => builtins::date_of_digits(digits)?,
            Expression::Variable(name) => match locals.get(name) {
                Some(value) => value.borrow().clone(),
                None => objects::global(name).unwrap_or_else(|| panic!("there is no variable {name}")),
            },
            Expression::Not(value) => Value::Boolean(!self.value(value, locals)?.as_bool()?),
            Expression::Minus(value) => Value::Number(-self.value(value, locals)?.as_number()?),
            Expression::Binary(operator, left, right) => return self.binary(operator, left, right, locals),
            Expression::Choice(condition, yes, no) => {
                let chosen = if self.value(condition, locals)?.as_bool()? { yes } else { no };
                self.value(chosen, locals)?
            }
            Expression::New(name, arguments) => {
                objects::construct(self.machine, name, self.values(arguments, locals)?)?
            }
            Expression::Call(name, arguments) => self.call(name, arguments, locals)?,
            Expression::Method(of, name, arguments) => self.method(of, name, arguments, locals)?,
            Expression::Property(of, name) => {
                let of = self.value(of, locals)?;
                objects::property(&of, name)?
            }
            Expression::Index(of, index) => {
                let (of, index) = (self.value(of, locals)?, self.value(index, locals)?);
                objects::at(&of, &index)?
            }
        })
    }

    fn values(&self, arguments: &Arguments, locals: &mut Locals) -> Outcome<Vec<Option<Value>>> {
        arguments.iter().map(|a| a.as_ref().map(|a| self.value(a, locals)).transpose()).collect()
    }

    /// As the language does: what is a variable here is the same variable there.
    fn cells(&self, arguments: &Arguments, locals: &mut Locals) -> Outcome<Vec<Option<Cell>>> {
        let mut cells = Vec::new();
        for argument in arguments {
            cells.push(match argument {
                Some(Expression::Variable(name)) if locals.contains_key(name) => Some(locals[name].clone()),
                Some(other) => Some(cell(self.value(other, locals)?)),
                None => None,
            });
        }
        Ok(cells)
    }

    fn call(&self, name: &str, arguments: &Arguments, locals: &mut Locals) -> Outcome {
        let own = match self.functions {
            Some(functions) => functions.iter().find(|f| f.name == name),
            None => self.machine.functions.get(name),
        };
        if let Some(function) = own {
            return self.run(function, self.cells(arguments, locals)?);
        }
        if let Some(stub) = self.machine.stubs.get(name) {
            let values = self.values(arguments, locals)?;
            return stub(&values.into_iter().map(|v| v.unwrap_or(Value::Undefined)).collect::<Vec<_>>());
        }
        let values = self.values(arguments, locals)?;
        builtins::call(self.machine, name, values)
    }

    fn method(&self, of: &Expression, name: &str, arguments: &Arguments, locals: &mut Locals) -> Outcome {
        if let Some(path) = path(of) {
            if let Some(stub) = self.machine.stubs.get(&format!("{path}.{name}")) {
                let values = self.values(arguments, locals)?;
                return stub(&values.into_iter().map(|v| v.unwrap_or(Value::Undefined)).collect::<Vec<_>>());
            }
            if path == MODULE {
                let function = self.machine.functions.get(name).filter(|f| f.exported);
                let function = function.unwrap_or_else(|| panic!("the module has no {name}"));
                return self.machine.run(function, self.cells(arguments, locals)?);
            }
        }
        let of = self.value(of, locals)?;
        objects::method(self.machine, &of, name, self.values(arguments, locals)?)
    }

    fn binary(&self, operator: &str, left: &Expression, right: &Expression, locals: &mut Locals) -> Outcome {
        let left = self.value(left, locals)?;
        match operator {
            "и" if !left.as_bool()? => return Ok(Value::Boolean(false)),
            "или" if left.as_bool()? => return Ok(Value::Boolean(true)),
            "и" | "или" => return Ok(Value::Boolean(self.value(right, locals)?.as_bool()?)),
            _ => {}
        }
        let right = self.value(right, locals)?;
        Ok(match operator {
            "=" => Value::Boolean(left.equals(&right)),
            "<>" => Value::Boolean(!left.equals(&right)),
            "<" | ">" | "<=" | ">=" => {
                let order = match (&left, &right) {
                    (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
                    (Value::Date(a), Value::Date(b)) => Some(a.cmp(b)),
                    (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
                    _ => None,
                };
                let Some(order) = order else {
                    return raise(format!("Сравнение {} и {}", left.type_name(), right.type_name()));
                };
                Value::Boolean(match operator {
                    "<" => order.is_lt(),
                    ">" => order.is_gt(),
                    "<=" => order.is_le(),
                    _ => order.is_ge(),
                })
            }
            "+" => match (&left, &right) {
                (Value::Text(text), other) => Value::text(format!("{text}{}", other.show())),
                (Value::Date(at), other) => Value::Date(at + other.as_number()? as i64),
                _ => Value::Number(left.as_number()? + right.as_number()?),
            },
            "-" => match (&left, &right) {
                (Value::Date(a), Value::Date(b)) => Value::Number((a - b) as f64),
                (Value::Date(at), other) => Value::Date(at - other.as_number()? as i64),
                _ => Value::Number(left.as_number()? - right.as_number()?),
            },
            "*" => Value::Number(left.as_number()? * right.as_number()?),
            "/" | "%" if right.as_number()? == 0.0 => return raise("Деление на 0"),
            "/" => Value::Number(left.as_number()? / right.as_number()?),
            "%" => Value::Number(left.as_number()? % right.as_number()?),
            _ => panic!("the operator {operator}"),
        })
    }
}

/// `A.B` of variables and properties alone.
fn path(of: &Expression) -> Option<String> {
    match of {
        Expression::Variable(name) => Some(name.clone()),
        Expression::Property(of, name) => Some(format!("{}.{name}", path(of)?)),
        _ => None,
    }
}

fn set(locals: &mut Locals, name: &str, value: Value) {
    match locals.get(name) {
        Some(cell) => *cell.borrow_mut() = value,
        None => {
            locals.insert(name.to_owned(), cell(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a function of one line of text answers.
    fn answer(body: &str) -> Outcome<String> {
        let machine = Machine::new(World::without_network());
        let code = format!("Функция Ответ() Экспорт\n{body}\nКонецФункции\n\n{OTHERS}");
        machine.call_in(&code, "Ответ", &[]).map(|value| value.show())
    }

    const OTHERS: &str = "
Процедура Удвоить(Число, Знач Другое)
    Число = Число * 2;
    Другое = 0;
КонецПроцедуры

Функция Сумма(Первое, Второе = 5)
    Возврат Первое + Второе;
КонецФункции
";

    #[test]
    fn expressions_have_the_languages_values() {
        for (expression, expected) in [
            ("1 + 2 * 3 - 4 / 2", "5"),
            ("(1 + 2) * 3 % 4", "1"),
            ("\"а\" + 1234567.5", "а1\u{a0}234\u{a0}567,5"),
            ("\"он сказал \"\"да\"\"\"", "он сказал \"да\""),
            ("Не 1 = 2 И 2 <= 2", "Да"),
            ("Истина Или 1 / 0 = 1", "Да"),
            ("?(2 > 1, \"да\", \"нет\")", "да"),
            ("1 = \"1\"", "Нет"),
            ("Неопределено = Null", "Нет"),
            ("'20240315103000' + 3600", "15.03.2024 11:30:00"),
            ("Сумма(1)", "6"),
            ("Сумма(1, 2)", "3"),
            ("СтрРазделить(\"а,б,в\", \",\")[1]", "б"),
            ("Формат(5, \"ЧЦ=2; ЧН=00; ЧВН=\")", "05"),
            ("Формат(0, \"ЧН=0; ЧГ=0\") + Формат(1500, \"ЧН=0; ЧГ=0\")", "01500"),
            ("СтрШаблон(\"%1 из %2\", 1, 10)", "1 из 10"),
            ("ТипЗнч(Новый Массив) = Тип(\"Массив\")", "Да"),
        ] {
            assert_eq!(answer(&format!("Возврат {expression};")).unwrap(), expected, "{expression}");
        }
    }

    #[test]
    fn statements_do_what_the_language_says() {
        for (body, expected) in [
            ("А = 0; Для Н = 1 По 10 Цикл Если Н > 3 Тогда Прервать; КонецЕсли; А = А + Н; КонецЦикла; Возврат А;", "6"),
            ("А = 5; Пока А > 0 Цикл А = А - 2; Если А = 3 Тогда Продолжить; КонецЕсли; КонецЦикла; Возврат А;", "-1"),
            ("А = 2; Б = 3; Удвоить(А, Б); Возврат \"\" + А + Б;", "43"),
            ("А = Новый Массив; Б = А; Б.Добавить(1); Возврат А.Количество();", "1"),
            ("С = Новый Структура(\"Имя\", 1); С.имя = 2; Возврат С.ИМЯ;", "2"),
            ("С = Новый Соответствие; С.Вставить(\"А\", 1); Возврат \"\" + С[\"А\"] + ТипЗнч(С[\"а\"]);", "1Неопределено"),
            ("Попытка ВызватьИсключение \"ой\"; Исключение \
              Возврат КраткоеПредставлениеОшибки(ИнформацияОбОшибке()); КонецПопытки;", "ой"),
            ("Попытка Попытка А = 1 / 0; Исключение ВызватьИсключение; КонецПопытки; Исключение Возврат \"дважды\"; \
              КонецПопытки;", "дважды"),
            ("Если Ложь Тогда Возврат 1; ИначеЕсли Истина Тогда Возврат 2; Иначе Возврат 3; КонецЕсли;", "2"),
        ] {
            assert_eq!(answer(body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn what_the_platform_refuses_raises() {
        for body in [
            "Возврат Число(\"1 2\");",
            "Возврат Число(\"\");",
            "Возврат Неопределено > 0;",
            "А = Новый Массив; Возврат А[0];",
            "С = Новый Структура; Возврат С.Нет;",
            "С = Новый Структура; С.Вставить(\"два слова\", 1);",
            "А = Неопределено; А.Добавить(1);",
            "Возврат Дата(2024, 2, 30);",
            "Если \"да\" Тогда Возврат 1; КонецЕсли;",
        ] {
            assert!(answer(body).is_err(), "{body}");
        }
    }
}
