//! The language's syntax tree, made from the parser's.

use crate::bsl::Module;
use std::rc::Rc;
use tree_sitter::Node;

#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub exported: bool,
    pub parameters: Vec<Parameter>,
    pub body: Vec<Statement>,
}

#[derive(Debug)]
pub struct Parameter {
    pub name: String,
    /// `Знач`: the caller's variable is not changed.
    pub by_value: bool,
    pub default: Option<Expression>,
}

#[derive(Debug)]
pub enum Statement {
    Assign(Expression, Expression),
    Call(Expression),
    Return(Option<Expression>),
    If(Vec<(Expression, Vec<Statement>)>, Vec<Statement>),
    While(Expression, Vec<Statement>),
    For(String, Expression, Expression, Vec<Statement>),
    ForEach(String, Expression, Vec<Statement>),
    Try(Vec<Statement>, Vec<Statement>),
    /// `None`: what was caught is raised again.
    Raise(Option<Expression>),
    Break,
    Continue,
}

pub type Arguments = Vec<Option<Expression>>;

#[derive(Debug)]
pub enum Expression {
    Undefined,
    Null,
    Boolean(bool),
    Number(f64),
    Text(String),
    /// Digits, as they stand.
    Date(String),
    Variable(String),
    Not(Box<Expression>),
    Minus(Box<Expression>),
    Binary(String, Box<Expression>, Box<Expression>),
    Choice(Box<Expression>, Box<Expression>, Box<Expression>),
    New(String, Arguments),
    Call(String, Arguments),
    Method(Box<Expression>, String, Arguments),
    Property(Box<Expression>, String),
    Index(Box<Expression>, Box<Expression>),
}

/// The functions of a module, and the statements outside of them.
pub fn read(module: &Module) -> (Vec<Rc<Function>>, Vec<Statement>) {
    assert_eq!(module.errors(), [0; 0], "lines that do not parse in\n{}", module.text);
    let functions = module.functions().into_iter();
    let functions = functions.map(|f| Rc::new(Reader(module).function(f.name, f.exported, f.node))).collect();
    (functions, Reader(module).block(&children(module.root())))
}

fn children(node: Node) -> Vec<Node> {
    (0..node.child_count() as u32).filter_map(|i| node.child(i)).filter(|n| n.kind() != "line_comment").collect()
}

struct Reader<'m>(&'m Module);

impl Reader<'_> {
    fn text(&self, node: Node) -> String {
        self.0.text_of(node).to_owned()
    }

    fn field(&self, node: Node, name: &str) -> Expression {
        self.expression(node.child_by_field_name(name).unwrap_or_else(|| panic!("no {name} in {}", self.text(node))))
    }

    fn function(&self, name: &str, exported: bool, node: Node) -> Function {
        let list = children(node.child_by_field_name("parameters").expect("parameters"));
        let parameters = list.into_iter().filter(|n| n.kind() == "parameter").map(|parameter| Parameter {
            name: self.text(parameter.child_by_field_name("name").expect("a name")),
            by_value: parameter.child_by_field_name("val").is_some(),
            default: parameter.child_by_field_name("def").map(|def| self.expression(def)),
        });
        Function {
            name: name.to_owned(),
            exported,
            parameters: parameters.collect(),
            body: self.block(&children(node)),
        }
    }

    /// Statements among the nodes; what is none is left out.
    fn block(&self, nodes: &[Node]) -> Vec<Statement> {
        nodes.iter().flat_map(|node| self.statement(*node)).collect()
    }

    fn statement(&self, node: Node) -> Vec<Statement> {
        let inner = children(node);
        let expressions = || inner.iter().filter(|n| n.kind() == "expression").map(|n| self.expression(*n));
        let name = || self.text(*inner.iter().find(|n| n.kind() == "identifier").expect("a variable"));
        vec![match node.kind() {
            "assignment_statement" => Statement::Assign(self.field(node, "left"), self.field(node, "right")),
            "call_statement" => Statement::Call(self.expression(inner[0])),
            "return_statement" => Statement::Return(node.child_by_field_name("result").map(|n| self.expression(n))),
            "if_statement" => self.condition(&inner),
            "while_statement" => Statement::While(expressions().next().expect("a condition"), self.block(&inner)),
            "for_statement" => {
                let mut bounds = expressions();
                let (from, to) = (bounds.next().expect("from"), bounds.next().expect("to"));
                Statement::For(name(), from, to, self.block(&inner))
            }
            "for_each_statement" => {
                Statement::ForEach(name(), expressions().next().expect("a collection"), self.block(&inner))
            }
            "try_statement" => {
                let at = inner.iter().position(|n| n.kind() == "EXCEPT_KEYWORD").expect("what is done then");
                Statement::Try(self.block(&inner[..at]), self.block(&inner[at..]))
            }
            "rise_error_statement" => {
                assert!(inner.iter().all(|n| n.kind() != "arguments"), "platform 8.3.10 has no such form");
                Statement::Raise(expressions().next())
            }
            "break_statement" => Statement::Break,
            "continue_statement" => Statement::Continue,
            // Regions hold functions, and in a fragment statements.
            "preprocessor" => return self.block(&inner),
            kind => {
                assert!(!kind.ends_with("_statement"), "not understood: {}", self.text(node));
                return Vec::new();
            }
        }]
    }

    fn condition(&self, inner: &[Node]) -> Statement {
        let of = |nodes: &[Node]| {
            let condition = nodes.iter().find(|n| n.kind() == "expression").expect("a condition");
            (self.expression(*condition), self.block(nodes))
        };
        let mut cases = vec![of(inner)];
        let clauses = inner.iter().filter(|n| n.kind() == "elseif_clause");
        cases.extend(clauses.map(|n| of(&children(*n))));
        let otherwise = inner.iter().find(|n| n.kind() == "else_clause");
        Statement::If(cases, otherwise.map(|n| self.block(&children(*n))).unwrap_or_default())
    }

    fn expression(&self, node: Node) -> Expression {
        let inner = children(node);
        match node.kind() {
            "expression" | "const_expression" | "index" => self.expression(inner[0]),
            "parenthesized_expression" => self.expression(inner[1]),
            "identifier" => Expression::Variable(self.text(node)),
            "UNDEFINED_KEYWORD" => Expression::Undefined,
            "NULL_KEYWORD" => Expression::Null,
            "boolean" => Expression::Boolean(inner[0].kind() == "TRUE_KEYWORD"),
            "number" => Expression::Number(self.text(node).parse().expect("a number")),
            "date" => Expression::Date(self.text(node).chars().filter(char::is_ascii_digit).collect()),
            "string" => {
                let lines = inner.iter().filter(|n| n.kind() == "string_content");
                let lines: Vec<_> = lines.map(|n| self.text(*n).replace("\"\"", "\"")).collect();
                Expression::Text(lines.join("\n"))
            }
            "unary_expression" => {
                let argument = Box::new(self.field(node, "argument"));
                match self.text(inner[0]).as_str() {
                    "-" => Expression::Minus(argument),
                    operator => {
                        assert_eq!(operator.to_lowercase(), "не");
                        Expression::Not(argument)
                    }
                }
            }
            "binary_expression" => self.binary(node),
            "ternary_expression" => Expression::Choice(
                Box::new(self.field(node, "condition")),
                Box::new(self.field(node, "consequence")),
                Box::new(self.field(node, "alternative")),
            ),
            "new_expression" => {
                let arguments = node.child_by_field_name("arguments");
                let name = self.text(node.child_by_field_name("type").expect("a type"));
                Expression::New(name, arguments.map(|n| self.arguments(n)).unwrap_or_default())
            }
            "method_call" | "call_expression" | "property_access" | "access" => self.chain(&inner, node),
            kind => panic!("not understood: {kind}: {}", self.text(node)),
        }
    }

    /// The parser binds `Не` closer than a comparison, 1C does not.
    fn binary(&self, node: Node) -> Expression {
        let operator = self.text(node.child_by_field_name("operator").expect("an operator")).to_lowercase();
        let (left, right) = (self.field(node, "left"), self.field(node, "right"));
        let logical = ["и", "или"].contains(&operator.as_str());
        let bare = node.child_by_field_name("left").and_then(|n| n.child(0)).expect("an operand");
        match left {
            Expression::Not(inner) if !logical && bare.kind() == "unary_expression" => {
                Expression::Not(Box::new(Expression::Binary(operator, inner, Box::new(right))))
            }
            left => Expression::Binary(operator, Box::new(left), Box::new(right)),
        }
    }

    /// `a.b(c)[d]`, and the calls and variables with which it begins.
    fn chain(&self, inner: &[Node], node: Node) -> Expression {
        let last = inner.last().expect("an expression");
        if node.kind() == "method_call" {
            let name = self.text(node.child_by_field_name("name").expect("a name"));
            return Expression::Call(name, self.arguments(*last));
        }
        if inner.len() == 1 {
            return self.expression(*last);
        }
        let before = Box::new(self.expression(inner[0]));
        match last.kind() {
            "method_call" => {
                let Expression::Call(name, arguments) = self.expression(*last) else { unreachable!() };
                Expression::Method(before, name, arguments)
            }
            "property" => Expression::Property(before, self.text(*last)),
            _ => Expression::Index(before, Box::new(self.expression(inner[2]))),
        }
    }

    fn arguments(&self, node: Node) -> Arguments {
        let list = children(node).into_iter();
        let arguments = list.filter(|n| ["expression", "omitted_argument"].contains(&n.kind()));
        arguments.map(|n| (n.kind() == "expression").then(|| self.expression(n))).collect()
    }
}
