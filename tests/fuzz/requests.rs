//! Requests of every kind that the program answers, to be made wrong.
//!
//! What changes from run to run, addresses and tokens, stands in them as `@NAME@` until they are sent: so the same seed
//! makes the same request.

use crate::mutate::{json, mutate};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::Compression;
use std::io::Write;
use support::Random;

/// Whose token a request carries, at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Caller {
    Nobody,
    /// May do everything.
    Client,
    /// May call `crm.deal.*` and batches of that.
    Narrow,
}

/// A request before its variables are made of it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub caller: Caller,
    pub method: String,
    pub path: Vec<u8>,
    pub query: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Draft {
    fn new(method: &str, path: impl Into<String>) -> Draft {
        Draft {
            caller: Caller::Nobody,
            method: method.into(),
            path: path.into().into_bytes(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn query(mut self, query: impl Into<Vec<u8>>) -> Draft {
        self.query = query.into();
        self
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Draft {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Draft {
        self.body = body.into();
        self.header("Content-Type", content_type)
    }

    fn of(mut self, caller: Caller, random: &mut Random) -> Draft {
        self.caller = caller;
        let token = token(caller);
        match (caller, random.below(10)) {
            (Caller::Nobody, 0..=4) => self,
            (Caller::Client, 0 | 1) => self.header("Authorization", "Basic @BASIC@"),
            (_, 2) => self.header("X-B24proxy-Token", token),
            (_, 3) => self.header("Authorization", format!("bearer  {token} ")),
            _ => self.header("Authorization", format!("Bearer {token}")),
        }
    }
}

fn token(caller: Caller) -> &'static str {
    match caller {
        Caller::Nobody => "a-token-that-nobody-has",
        Caller::Client => "@TOKEN@",
        Caller::Narrow => "@NARROW@",
    }
}

fn a_caller(random: &mut Random) -> Caller {
    match random.below(20) {
        0 => Caller::Nobody,
        1..=3 => Caller::Narrow,
        _ => Caller::Client,
    }
}

fn a_method(caller: Caller, random: &mut Random) -> &'static str {
    match caller {
        Caller::Narrow if random.percent(70) => {
            random.pick::<&str>(&["batch", "batch", "crm.deal.add", "crm.deal.list"])
        }
        _ => random.pick::<&str>(METHODS),
    }
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=X";

const METHODS: &[&str] = &[
    "crm.deal.add",
    "crm.deal.add",
    "crm.deal.list",
    "crm.deal.get",
    "crm.deal.update",
    "crm.item.list",
    "tasks.task.add",
    "tasks.task.list",
    "task.commentitem.add",
    "profile",
    "batch",
    "sim.echo",
    "sim.fail",
    "sim.oldstyle",
    "sim.emptyerror",
    "sim.numericerror",
    "methods",
    "no.such.method",
];

/// Names that mean something in parameters.
const NAMES: &[&str] = &[
    "fields",
    "TITLE",
    "title",
    "filter",
    ">ID",
    "order",
    "select",
    "start",
    "ID",
    "id",
    "cmd",
    "halt",
    "auth",
    "a",
    "0",
    "method",
    "query",
    "as",
    "entityTypeId",
    "status",
    "error",
];

const ENVELOPES: &[&str] = &[
    r#"{"domain":"@PORTAL@","method":"crm.deal.add","params":{"fields":{"TITLE":"Стол","OPPORTUNITY":1.50}}}"#,
    r#"{"domain":"acme","method":"crm.deal.add","params":{"fields":{"TITLE":"a"}}}"#,
    "\u{feff}{\"domain\":\"https://@PORTAL@/\",\"method\":\"sim.echo\",\"params\":{\"a\":1E+2,\"n\":null,\"l\":[]}}",
    r#"{"domain":"acme","method":"task.commentitem.add","params":[7,{"POST_MESSAGE":"Готово"}]}"#,
    r#"{"domain":"acme","method":"tasks.task.add","version":3,"params":{"fields":{"title":"a"}}}"#,
    r#"{"domain":"acme","method":"batch","version":3,"params":[{"method":"tasks.task.add","query":{"fields":{"title":"a"}}}]}"#,
    r#"{"domain":"acme","method":"batch","params":{"halt":0,"cmd":{"a":"crm.deal.add?fields[TITLE]=a","b":"crm.deal.get?id=$result[a]"}}}"#,
    r#"{"domain":"acme","method":"sim.fail","params":{"status":503,"error":"ON_PURPOSE","error_description":"x"}}"#,
    r#"{"domain":"acme","method":"crm.deal.list","params":{"filter":{">ID":3},"select":["ID","TITLE"]},"all":true}"#,
    r#"{"domain":"acme","method":"crm.item.list","params":{"entityTypeId":2},"all":true}"#,
    r#"{"domain":"acme","method":"tasks.task.list","all":true,"cursor":"start:50"}"#,
    r#"{"domain":"acme","method":"tasks.task.list","params":{"filter":[["id",">",5]],"select":["title"]},"all":true,"version":3}"#,
    r#"{"domain":"acme","method":"user.get","params":{"FILTER":{"ACTIVE":true},"SELECT":["NAME"]},"all":true}"#,
    r#"{"domain":"acme","calls":[{"method":"tasks.task.get","params":{"id":1}}],"version":3}"#,
    r#"{"domain":"acme","calls":[{"method":"crm.deal.add","params":{"fields":{"TITLE":"a"}}},{"method":"profile"}],"halt":true}"#,
    r#"{"domain":"acme","calls":[{"method":"crm.deal.add","params":{"fields":{"TITLE":null}}},{"method":"sim.fail"},{"method":"crm.deal.add","params":{"fields":{"TITLE":"b"}}}]}"#,
    r#"{"domain":"hook","method":"crm.deal.add","params":{"fields":{"TITLE":"a"}}}"#,
    r#"{"domain":"@STRANGER@","method":"profile"}"#,
    r#"{"method":"profile"}"#,
];

const FORMS: &[&str] = &[
    "fields%5BTITLE%5D=%D0%A1%D1%82%D0%BE%D0%BB&fields[N][]=1&",
    "halt=0&cmd%5Ba%5D=crm.deal.add%3Ffields%5BTITLE%5D%3Da&cmd[b]=profile",
    "cmd[a]=crm.deal.add%3Ffields%5BTITLE%5D%3Da&cmd[a][x]=1&cmd=profile",
    "auth=x&a=1&%61uth=y&auth%5B%5D=z&bx24_request_id=1",
    "filter[>ID]=0&order[ID]=ASC&start=50",
];

const JSON_OF_WEBHOOKS: &[&str] = &[
    r#"{"fields":{"TITLE":"Стол","N":[1,2.50,null,{}]}}"#,
    r#"{"halt":0,"cmd":{"a":"crm.deal.add?fields[TITLE]=a","b":"batch?cmd[c]=crm.lead.add"}}"#,
    r#"{"cmd":["crm.deal.add?fields[TITLE]=a","crm.deal.list"]}"#,
    r#"[{"method":"tasks.task.add","query":{"fields":{"title":"a"}},"as":"t"},{"method":"profile"}]"#,
    r#"{"auth":"x","fields":{"title":"a"},"id":1}"#,
    r#"[7,{"POST_MESSAGE":"Да"}]"#,
    "",
];

const MULTIPARTS: &[&str] = &[
    "--X\r\nContent-Disposition: form-data; name=\"fields[TITLE]\"\r\n\r\nСт\r\nол\r\n--X--\r\n",
    "--X\r\nContent-Disposition: form-data; name=\"cmd[a]\"\r\n\r\ncrm.deal.add?fields[TITLE]=a\r\n--X\r\n\
     content-disposition: form-data; name=file; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nx\r\n--X--",
    "--X\r\nContent-Disposition: form-data; name=\"auth\"\r\n\r\ny\r\n--X--\r\n",
];

/// What Bitrix24's server posts, and a browser that opens the application in it.
const EVENT: &str = "event=ONAPPINSTALL&data%5BVERSION%5D=1&data%5BLANGUAGE_ID%5D=ru&ts=1700000000\
    &auth%5Baccess_token%5D=@ACCESS@&auth%5Bexpires_in%5D=3600&auth%5Brefresh_token%5D=@REFRESH@&auth%5Bscope%5D=crm\
    &auth%5Bserver_endpoint%5D=x&auth%5Bstatus%5D=L&auth%5Bclient_endpoint%5D=x&auth%5Bdomain%5D=@PORTAL@\
    &auth%5Bmember_id%5D=@MEMBER@&auth%5Bapplication_token%5D=@APPLICATION@";
const REMOVAL: &str = "event=ONAPPUNINSTALL&data%5BCLEAN%5D=1&ts=1700000000&auth%5Bdomain%5D=@PORTAL@\
    &auth%5Bmember_id%5D=@MEMBER@&auth%5Bapplication_token%5D=@APPLICATION@";
const OPENING: &str = "AUTH_ID=@ACCESS@&AUTH_EXPIRES=3600&REFRESH_ID=@REFRESH@&SERVER_ENDPOINT=x\
    &APPLICATION_TOKEN=@APPLICATION@&APPLICATION_SCOPE=crm&member_id=@MEMBER@&status=L&PLACEMENT=DEFAULT";
const OPENED_AT: &str = "DOMAIN=@PORTAL@&PROTOCOL=0&LANG=ru&APP_SID=0123456789abcdef";

/// A request of any kind. `contacts`: also such as make the program call somebody on behalf of a stranger.
pub fn draft(random: &mut Random, contacts: bool) -> Draft {
    let draft = plain_draft(random, contacts);
    match random.percent(6) && !draft.body.is_empty() {
        true => packed(draft, random),
        false => draft,
    }
}

/// With its body packed, or declared so.
fn packed(mut draft: Draft, random: &mut Random) -> Draft {
    let (encoding, body) = match random.below(4) {
        0 => ("gzip", draft.body),
        1 => ("deflate", written(ZlibEncoder::new(Vec::new(), Compression::fast()), &draft.body, ZlibEncoder::finish)),
        2 => (
            "deflate",
            written(DeflateEncoder::new(Vec::new(), Compression::fast()), &draft.body, DeflateEncoder::finish),
        ),
        _ => ("gzip", written(GzEncoder::new(Vec::new(), Compression::fast()), &draft.body, GzEncoder::finish)),
    };
    draft.body = body;
    draft.header("Content-Encoding", encoding)
}

fn written<E: Write>(mut encoder: E, bytes: &[u8], finish: fn(E) -> std::io::Result<Vec<u8>>) -> Vec<u8> {
    encoder.write_all(bytes).and_then(|()| finish(encoder)).expect("memory")
}

fn plain_draft(random: &mut Random, contacts: bool) -> Draft {
    match random.below(if contacts { 100 } else { 78 }) {
        0..=39 => envelope(random),
        40..=64 => webhook(random),
        65..=67 => Draft::new("GET", "/health"),
        68..=70 => {
            let caller = a_caller(random);
            let accept = *random.pick(&["*/*", "text/html", "application/json"]);
            Draft::new("GET", "/status").header("Accept", accept).of(caller, random)
        }
        71..=73 => {
            let query =
                *random.pick(&["portal=@PORTAL@", "portal=acme&lang=en", "portal=hook", "portal=@STRANGER@", ""]);
            Draft::new("GET", *random.pick(&["/install", "/install", ""])).query(query)
        }
        74..=77 => {
            let path = *random.pick(&["", "/health", "/status", "/install", "/callback", "/rest/1/@TOKEN@/profile"]);
            let draft = Draft::new("OPTIONS", path).header("Access-Control-Request-Method", "POST");
            draft.header("Origin", *random.pick(&["https://shop.acme.test", "https://evil.example", "null"]))
        }
        78..=83 => {
            let query = "code=@CODE@&state=@STATE@&domain=@PORTAL@&member_id=@MEMBER@&scope=crm";
            let draft = Draft::new("GET", *random.pick(&["/callback", "/callback", ""])).query(query);
            draft.header("Cookie", "@COOKIE@")
        }
        84..=90 => Draft::new("POST", "").query(OPENED_AT).body(FORM, OPENING),
        91..=95 => Draft::new("POST", "").body(FORM, EVENT),
        96..=97 => Draft::new("POST", "").body(FORM, REMOVAL),
        _ => Draft::new("POST", "").body(FORM, "event=ONCRMDEALADD&data[FIELDS][ID]=7"),
    }
}

fn envelope(random: &mut Random) -> Draft {
    let body = match random.below(10) {
        0 => many_calls(random),
        1 => {
            let (method, params) = (a_method(Caller::Client, random), json(random, NAMES, 4));
            format!(r#"{{"domain":"acme","method":"{method}","params":{params}}}"#)
        }
        2 if random.percent(20) => large(random),
        _ => (*random.pick(ENVELOPES)).to_owned(),
    };
    let caller = a_caller(random);
    let draft = Draft::new("POST", *random.pick(&["", "", "", "/"])).body(JSON, body).of(caller, random);
    with_key(draft, random)
}

fn many_calls(random: &mut Random) -> String {
    let count = *random.pick(&[1, 3, 49, 51, 120]);
    let call = |random: &mut Random, at: u64| match random.below(10) {
        0 => format!(r#"{{"method":"{}","params":{}}}"#, random.pick(METHODS), json(random, NAMES, 3)),
        1 => r#"{"method":"crm.deal.list","params":{"filter":{}}}"#.to_owned(),
        _ => format!(r#"{{"method":"crm.deal.add","params":{{"fields":{{"TITLE":"{at}"}}}}}}"#),
    };
    let calls: Vec<String> = (0..count).map(|at| call(random, at)).collect();
    format!(r#"{{"domain":"acme","calls":[{}],"halt":{}}}"#, calls.join(","), random.percent(30))
}

/// Around the limits of a body, which is 1 MiB here, and of what is written at once.
fn large(random: &mut Random) -> String {
    let length = *random.pick(&[16 << 10, 64 << 10, 300_000, (1 << 20) - 200, 1 << 20, (1 << 20) + 1]);
    format!(r#"{{"domain":"acme","method":"crm.deal.add","params":{{"fields":{{"TITLE":"{}"}}}}}}"#, "x".repeat(length))
}

fn webhook(random: &mut Random) -> Draft {
    let caller = a_caller(random);
    let portal = match random.below(20) {
        0..=2 => "",
        3 | 4 => "/hook",
        5 => "/@STRANGER@",
        6..=9 => "/@PORTAL@",
        _ => "/acme",
    };
    let (version, kind) = if random.percent(20) { ("api/", 5 + random.below(2)) } else { ("", random.below(7)) };
    let ending = *random.pick(&["", ".json", ".json", ".xml", "/"]);
    let path = format!("{portal}/rest/{version}1/{}/{}{ending}", token(caller), a_method(caller, random));
    let form = *random.pick(FORMS);
    let mut draft = match kind {
        0 | 1 => Draft::new("GET", path).query(form),
        2 => Draft::new("POST", path).body(FORM, form),
        3 => Draft::new("POST", path).body(MULTIPART, *random.pick(MULTIPARTS)),
        4 => Draft::new("POST", path).query(form).body("text/plain", form),
        _ => Draft::new("POST", path).body(JSON, *random.pick(JSON_OF_WEBHOOKS)),
    };
    draft.caller = caller;
    with_key(draft, random)
}

/// Few keys, so that they meet again.
fn with_key(draft: Draft, random: &mut Random) -> Draft {
    if !random.percent(20) {
        return draft;
    }
    let key = *random.pick(&["a", "b", "c", "d", "key with \" and \\", "", "x\ty"]);
    draft.header("Idempotency-Key", if random.percent(3) { "k".repeat(256) } else { key.to_owned() })
}

impl Draft {
    /// Makes it wrong before its variables are made, so that they agree with each other.
    pub fn spoil(&mut self, random: &mut Random) {
        let others: Vec<&[u8]> =
            [ENVELOPES, FORMS, JSON_OF_WEBHOOKS, MULTIPARTS].concat().into_iter().map(str::as_bytes).collect();
        match random.below(10) {
            0..=6 if !self.body.is_empty() => mutate(&mut self.body, random, &others),
            7 => mutate(&mut self.path, random, &[b"/rest/1/x/profile", b"/install"]),
            8 if random.percent(40) => self.method = (*random.pick(&["GET", "POST", "HEAD", "PUT", "OPTIONS"])).into(),
            _ => mutate(&mut self.query, random, &others),
        }
    }
}

/// `PATH_INFO`, `REQUEST_URI` and `SCRIPT_NAME` as no careful web server writes them.
const PATHS: &[&str] = &[
    "",
    "/",
    "//",
    "*",
    "health",
    "/health/../status",
    "/%2e%2e/health",
    "/he%61lth",
    "/health?x",
    "/rest",
    "/rest/",
    "/rest/1",
    "/rest/api/1/x",
    "/rest/1/x/y/z",
    "/acme/rest/api/1/x/profile",
    "//rest//1//x//profile//",
    "/cgi-bin/b24proxy",
    "/cgi-bin/b24proxy/health",
    "/cgi-bin%2Fb24proxy%2Fhealth",
    "http://www.acme.test/cgi-bin/b24proxy/health",
    "\\health",
    "/\u{441}\u{442}\u{43e}\u{43b}",
];

const METHODS_OF_HTTP: &[&str] =
    &["", "get", "Post", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "CONNECT", "OPTIONS", "PROPFIND", "POST ", "G T"];

const LENGTHS: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "+1",
    " 5",
    "5 ",
    "5, 5",
    "0x10",
    "1e3",
    "00000000000000000001",
    "1048577",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "abc",
];

/// Headers that a stranger may add, as variables.
const ADDED: &[(&str, &str)] = &[
    ("HTTP_ORIGIN", "https://shop.acme.test"),
    ("HTTP_ORIGIN", "https://evil.example"),
    ("HTTP_ORIGIN", "null"),
    ("HTTP_SEC_FETCH_SITE", "cross-site"),
    ("HTTP_ACCEPT", "text/html"),
    ("HTTP_ACCEPT_LANGUAGE", "ru,en;q=0.5"),
    ("HTTP_COOKIE", "b24proxy_install=x; b24proxy_install=y; =; a"),
    ("HTTP_TRANSFER_ENCODING", "chunked"),
    ("HTTP_CONTENT_ENCODING", "gzip"),
    ("HTTP_EXPECT", "100-continue"),
    ("HTTP_RANGE", "bytes=0-1"),
    ("HTTP_HOST", "evil.example"),
    ("HTTP_X_FORWARDED_FOR", "10.0.0.1"),
    ("HTTP_X_FORWARDED_FOR", "192.0.2.1, 127.0.0.1,"),
    ("HTTP_FORWARDED", "for=\"[2001:db8::1]:4711\""),
    ("HTTP_X_FORWARDED_HOST", "@STRANGER@"),
    ("HTTP_PROXY", "http://@STRANGER@/"),
    ("https_proxy", "http://@STRANGER@/"),
    ("ALL_PROXY", "http://@STRANGER@/"),
    ("REMOTE_ADDR", "::1"),
    ("REMOTE_ADDR", "not an address"),
    ("CONTENT_TYPE", "multipart/form-data"),
    ("CONTENT_TYPE", "multipart/form-data; boundary=\"\""),
    ("CONTENT_TYPE", "application/json; charset=windows-1251"),
    ("CONTENT_TYPE", "APPLICATION/X-WWW-FORM-URLENCODED ;x"),
    ("CONTENT_TYPE", ";"),
    ("REDIRECT_HTTP_AUTHORIZATION", "Bearer wrong"),
    ("HTTP_AUTHORIZATION", "Basic ===="),
    ("HTTP_X_B24PROXY_TOKEN", "wrong"),
    ("DOCUMENT_ROOT", "/"),
    ("DOCUMENT_ROOT", "relative/../.."),
    ("SCRIPT_FILENAME", "/nowhere"),
    ("SCRIPT_FILENAME", "/"),
    ("SCRIPT_NAME", "/cgi-bin/b24proxy/health"),
    ("SCRIPT_NAME", "/rest/1/x/profile"),
    ("PATH_INFO", "/acme/rest/api//"),
    ("REQUEST_URI", "/cgi-bin/b24proxy/%72est/1/"),
    ("B24PROXY_CONFIG", ""),
    ("B24PROXY_CONFIG", "/no/such/proxy.toml"),
    ("SERVER_PROTOCOL", "HTTP/9"),
    ("SERVER_PORT", "-1"),
    ("RUST_BACKTRACE", "full"),
];

/// All variables of a request, in the order of their names.
pub type Variables = std::collections::BTreeMap<String, Vec<u8>>;

/// Makes one variable wrong, or adds or takes one. `GATEWAY_INTERFACE` stays: without it this is the command line.
pub fn spoil_variables(variables: &mut Variables, random: &mut Random) {
    let names: Vec<String> = variables.keys().filter(|name| *name != "GATEWAY_INTERFACE").cloned().collect();
    let name = random.pick(&names).clone();
    let set = |variables: &mut Variables, name: &str, value: &str| {
        variables.insert(name.to_owned(), value.as_bytes().to_vec());
    };
    match random.below(12) {
        0 | 1 => drop(variables.remove(&name)),
        2 => set(variables, &name, ""),
        3 => {
            let length = *random.pick(&[300, 9_000, 120_000]);
            set(variables, &name, &random.pick(&["x", "%", "/", "a=b&", "[", "\u{44f}"]).repeat(length)[..length]);
        }
        4 => drop(variables.insert(name, b"\xff\xfe\x80 \xd0".to_vec())),
        5 | 6 => {
            let mut value = variables.remove(&name).unwrap_or_default();
            mutate(&mut value, random, &[]);
            value.truncate(120_000);
            variables.insert(name, value);
        }
        7 => set(variables, "CONTENT_LENGTH", random.pick::<&str>(LENGTHS)),
        8 => set(variables, "REQUEST_METHOD", random.pick::<&str>(METHODS_OF_HTTP)),
        9 => {
            let name = *random.pick(&["PATH_INFO", "REQUEST_URI", "SCRIPT_NAME"]);
            set(variables, name, random.pick::<&str>(PATHS));
        }
        _ => {
            let (name, value) = *random.pick(ADDED);
            set(variables, name, value);
        }
    }
    // No environment can hold it.
    variables.values_mut().for_each(|value| value.retain(|byte| *byte != 0));
}
