//! A real browser, Chromium without a window, driven through chromedriver by the protocol of
//! <https://www.w3.org/TR/webdriver2/>.
//!
//! It has a profile of its own in the sandbox, which ends with it. Nothing is resolved but what the test maps: a request
//! to any other host than 127.0.0.1 fails, and is seen in [`Browser::requests`].

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{json, Value};

use crate::http::Request;
use crate::processes::{unprivileged_owner, Group};
use crate::{eventually, Sandbox};

const CHROMIUM: &str = "/usr/bin/chromium";
const CHROMEDRIVER: &str = "/usr/bin/chromedriver";

/// The name under which the protocol hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A running browser with one tab. It ends with this value.
pub struct Browser {
    driver: Group,
    address: SocketAddr,
    /// `/session/…`
    session: String,
}

impl Browser {
    /// `language`: what `Accept-Language` says. `mapped`: hosts and where they are, `api.example:443 127.0.0.1:8443`.
    pub fn start(sandbox: &Sandbox, language: &str, mapped: &[String]) -> Browser {
        for (program, package) in [(CHROMIUM, "chromium"), (CHROMEDRIVER, "chromium-driver")] {
            assert!(Path::new(program).exists(), "{program} is missing: install the Debian package {package}");
        }
        let profile = tempfile::Builder::new().prefix("browser-").tempdir_in(sandbox.path().join("run"));
        let profile = profile.expect("the sandbox can be written").keep();
        crate::sandbox::give_away(&profile);

        let log = profile.join("chromedriver.log");
        let output = fs::File::create(&log).expect("the sandbox can be written");
        let mut command = sandbox.command(CHROMEDRIVER);
        command.arg("--port=0").env("HOME", &profile).env("TMPDIR", &profile);
        command.stdout(Stdio::from(output.try_clone().expect("a file"))).stderr(Stdio::from(output));
        let driver = Group::start(command).unwrap_or_else(|error| panic!("cannot start {CHROMEDRIVER}: {error}"));
        let mut port = 0;
        eventually("chromedriver listens", || {
            let told = fs::read_to_string(&log).unwrap_or_default();
            let words = told.split("started successfully on port ").nth(1).and_then(|rest| rest.split('.').next());
            port = words.and_then(|port| port.parse().ok()).unwrap_or(0);
            port != 0
        });

        let mut browser = Browser { driver, address: (Ipv4Addr::LOCALHOST, port).into(), session: String::new() };
        let answer = browser.command("POST", "/session", &capabilities(&profile, language, mapped));
        browser.session = format!("/session/{}", answer["sessionId"].as_str().expect("a session"));
        browser.send("POST", "/timeouts", &json!({ "implicit": 5000, "pageLoad": 30_000 }));
        browser
    }

    pub fn open(&self, url: &str) {
        self.send("POST", "/url", &json!({ "url": url }));
    }

    /// The address of the tab.
    pub fn url(&self) -> String {
        self.text_of(&self.send("GET", "/url", &Value::Null))
    }

    /// What a script answers (`return …`) in the page or frame.
    pub fn run(&self, script: &str) -> Value {
        self.send("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What a person reads in the first element that the selector finds; waits for it.
    pub fn text(&self, selector: &str) -> String {
        let element = self.find(selector);
        self.text_of(&self.send("GET", &format!("/element/{element}/text"), &Value::Null))
    }

    /// Waits until that is what a person reads there: a click may leave the old page for a moment.
    pub fn wait_for_text(&self, selector: &str, expected: &str) {
        let selector = Value::from(selector);
        let script = format!("const e = document.querySelector({selector}); return e ? e.innerText : null");
        eventually(&format!("{selector} is {expected:?}"), || self.run(&script) == expected);
    }

    pub fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.send("POST", &format!("/element/{element}/click"), &json!({}));
    }

    pub fn write(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.send("POST", &format!("/element/{element}/value"), &json!({ "text": text }));
    }

    /// From now on everything happens in this frame.
    pub fn enter_frame(&self, selector: &str) {
        let element = self.find(selector);
        self.send("POST", "/frame", &json!({ "id": { ELEMENT: element } }));
    }

    /// Back to the page as a whole.
    pub fn leave_frame(&self) {
        self.send("POST", "/frame", &json!({ "id": null }));
    }

    /// The size of what is seen, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.develop("Emulation.setDeviceMetricsOverride", size);
    }

    /// Whether the person prefers dark pages.
    pub fn prefer_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.develop("Emulation.setEmulatedMedia", features);
    }

    /// The cookies of the page.
    pub fn cookies(&self) -> Vec<Value> {
        self.send("GET", "/cookie", &Value::Null).as_array().cloned().unwrap_or_default()
    }

    /// The window as a PNG picture, in base64.
    pub fn screenshot(&self) -> String {
        self.text_of(&self.send("GET", "/screenshot", &Value::Null))
    }

    /// Everything in the console since this was last asked: errors, warnings, violations of a content security policy.
    pub fn console(&self) -> Vec<String> {
        self.log("browser").iter().map(|entry| self.text_of(&entry["message"])).collect()
    }

    /// The addresses of all requests to the network since this was last asked, those of frames too.
    pub fn requests(&self) -> Vec<String> {
        let events = self.log("performance");
        let events = events.iter().filter_map(|entry| serde_json::from_str(entry["message"].as_str()?).ok());
        events
            .filter(|event: &Value| event["message"]["method"] == "Network.requestWillBeSent")
            .map(|event| self.text_of(&event["message"]["params"]["request"]["url"]))
            // Not chrome: and data:, of which the browser's own first page is made.
            .filter(|url| url.starts_with("http") || url.starts_with("ws"))
            .collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        self.send("POST", "/se/log", &json!({ "type": kind })).as_array().cloned().unwrap_or_default()
    }

    /// A command of the DevTools protocol.
    fn develop(&self, command: &str, parameters: Value) {
        self.send("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    fn find(&self, selector: &str) -> String {
        let found = self.send("POST", "/element", &json!({ "using": "css selector", "value": selector }));
        self.text_of(&found[ELEMENT])
    }

    fn text_of(&self, value: &Value) -> String {
        value.as_str().unwrap_or_default().to_owned()
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        self.command(method, &format!("{}{path}", self.session), body)
    }

    /// The `value` of an answer; an error is a panic with the driver's own words.
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut request = Request::new(self.address, method, path).timeout(Duration::from_secs(60));
        if !body.is_null() {
            request = request.json(body.to_string());
        }
        let answer = request.send();
        let value = answer.json()["value"].clone();
        assert_eq!(answer.status, 200, "{method} {path} {body}: {}", value["message"].as_str().unwrap_or_default());
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser; what is left of it is killed with the sandbox.
        let end = Request::new(self.address, "DELETE", &self.session).timeout(Duration::from_secs(10));
        let _ = end.try_send();
        self.driver.stop();
    }
}

fn capabilities(profile: &Path, language: &str, mapped: &[String]) -> Value {
    let mut rules: Vec<String> = mapped.iter().map(|pair| format!("MAP {pair}")).collect();
    rules.extend(["EXCLUDE 127.0.0.1".into(), "MAP * ~NOTFOUND".into()]);
    let mut arguments: Vec<String> = [
        "--headless=new",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--ignore-certificate-errors",
        "--hide-scrollbars",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--user-data-dir={}", profile.join("profile").display()));
    arguments.push(format!("--accept-lang={language}"));
    arguments.push(format!("--host-resolver-rules={}", rules.join(", ")));
    if unprivileged_owner().is_some() {
        // Containers, where tests run as root, seldom allow what the browser's own sandbox needs.
        arguments.push("--no-sandbox".into());
    }
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "acceptInsecureCerts": true,
        "goog:chromeOptions": { "binary": CHROMIUM, "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    } } })
}
