//! The page of `/status`: for each portal a light with a sentence, and beneath it what there is to know.

use super::head::{Button, Head, Place, Tone};
use super::language::Language;
use super::texts;
use crate::serve::status::{moment, person, told, Condition, PortalStatus};
use crate::values::answer::Answer;
use crate::values::tally::HOURS;
use askama::Template;
use std::collections::BTreeMap;

/// Height of the chart, and what a bar takes of its width.
const HEIGHT: u64 = 64;
const STEP: usize = 20;

#[derive(Template)]
#[template(path = "status.html", config = "src/serve/page/askama.toml")]
pub struct StatusPage {
    head: Head,
    portals: Vec<Card>,
}

struct Words {
    client: &'static str,
    hour: &'static str,
    day: &'static str,
    failed: &'static str,
    limit: &'static str,
    none: &'static str,
}

/// What is shown of a portal.
struct Card {
    name: String,
    sentence: Sentence,
    /// Methods that Bitrix24 refuses now, and the like.
    warnings: Vec<Sentence>,
    button: Option<Button>,
    facts: Vec<(&'static str, Sentence)>,
    chart: Chart,
    clients: Vec<ByClient>,
    limit: Limit,
}

/// A sentence with a moment in it, perhaps.
#[derive(Default)]
struct Sentence {
    light: &'static str,
    before: String,
    at: Option<Moment>,
    after: String,
}

/// A moment in UTC, which a script in the page writes in local time, and how far it is from now.
struct Moment {
    unix: i64,
    utc: String,
    relative: String,
}

/// Calls and errors of the last 24 hours.
struct Chart {
    title: &'static str,
    /// In words.
    sum: String,
    bars: Vec<Bar>,
    width: usize,
    height: u64,
    oldest: String,
    newest: String,
    /// Calls of the fullest hour; none: there is nothing to draw.
    most: u64,
    calls: &'static str,
    errors: &'static str,
}

struct Bar {
    title: String,
    x: usize,
    /// Heights, and how far from the top they begin.
    calls: u64,
    calls_top: u64,
    errors: u64,
    errors_top: u64,
}

struct ByClient {
    name: String,
    hour: u64,
    hour_errors: u64,
    day: u64,
    day_errors: u64,
}

struct Limit {
    /// In words.
    level: String,
    /// Of a hundred.
    filled: u64,
}

impl StatusPage {
    pub fn of(language: Language, portals: &[PortalStatus]) -> StatusPage {
        let mut head = Head::new(language, Tone::Plain, texts::words(language).status);
        (head.wide, head.has_times) = (true, true);
        StatusPage { head, portals: portals.iter().map(|portal| Card::of(language, portal)).collect() }
    }

    pub fn answer(&self, place: &Place) -> Answer {
        self.head.answer(self, 200, place)
    }

    fn words(&self) -> Words {
        self.head.language.pick(
            Words {
                client: "Клиент",
                hour: "за час",
                day: "за сутки",
                failed: "с ошибкой",
                limit: "Ограничение запросов",
                none: "Вызовов за сутки не было.",
            },
            Words {
                client: "Client",
                hour: "in the hour",
                day: "in the day",
                failed: "failed",
                limit: "Limit of requests",
                none: "There was no call in the day.",
            },
        )
    }
}

impl Card {
    fn of(language: Language, portal: &PortalStatus) -> Card {
        let needs_installing = matches!(portal.reason.as_deref(), Some("not_installed" | "reinstall_required"));
        Card {
            name: portal.portal.clone(),
            sentence: sentence(language, portal),
            warnings: warnings(language, portal),
            button: portal
                .install_url
                .clone()
                .filter(|_| needs_installing)
                .map(|url| Button::new(texts::words(language).install, url)),
            facts: facts(language, portal),
            chart: Chart::of(language, portal),
            clients: by_client(portal),
            limit: Limit::of(language, portal),
        }
    }
}

impl Sentence {
    fn new(light: &'static str, text: impl Into<String>) -> Sentence {
        Sentence { light, before: text.into(), ..Sentence::default() }
    }

    fn fact(text: impl Into<String>) -> Sentence {
        Sentence::new("", text)
    }

    /// The moment stands between what was said and what follows.
    fn at(self, at: Moment, after: &str) -> Sentence {
        Sentence { at: Some(at), after: after.into(), ..self }
    }
}

impl Moment {
    fn of(language: Language, unix: i64, now: i64) -> Moment {
        let utc = moment(unix);
        // Of 2026-08-01 12:00:00 UTC the seconds.
        let utc = match utc.rsplit_once(':') {
            Some((minutes, _)) => format!("{minutes} UTC"),
            None => utc,
        };
        Moment { unix, utc, relative: relative(language, unix, now) }
    }

    fn iso(&self) -> String {
        self.utc.replacen(' ', "T", 1).replace(" UTC", "Z")
    }
}

/// `5 min ago`, `in 40 min`, which no line breaks.
fn relative(language: Language, unix: i64, now: i64) -> String {
    let seconds = unix.abs_diff(now);
    let (count, russian, english) = match seconds {
        0..60 => return language.pick("сейчас", "now").into(),
        60..3600 => (seconds / 60, "мин", "min"),
        3600..172_800 => (seconds / 3600, "ч", "h"),
        _ => (seconds / 86_400, "дн.", "d"),
    };
    let unit = language.pick(russian, english);
    match unix > now {
        true => language.pick(format!("через {count}\u{a0}{unit}"), format!("in {count}\u{a0}{unit}")),
        false => language.pick(format!("{count}\u{a0}{unit}\u{a0}назад"), format!("{count}\u{a0}{unit}\u{a0}ago")),
    }
}

/// Whether calls work, and what is to be done.
fn sentence(language: Language, portal: &PortalStatus) -> Sentence {
    let now = portal.page.now;
    let say = |light, russian: &str, english: &str| Sentence::new(light, language.pick(russian, english));
    if let Some(reason) = &portal.reason {
        return out_of_order(language, portal, reason);
    }
    let was_called = portal.last_call.is_some();
    match &portal.tokens {
        None if was_called => {
            say("good", "Работает через вебхук из proxy.toml.", "Works through the webhook in proxy.toml.")
        }
        None => say(
            "plain",
            "Вебхук из proxy.toml; вызовов ещё не было.",
            "The webhook in proxy.toml; there was no call yet.",
        ),
        Some(tokens) if portal.last_refresh_error.is_some() => {
            let until = Moment::of(language, tokens.expires_at, now);
            say(
                "warn",
                "Работает, но последнее обновление токена не удалось. Токен действует до ",
                "Works, but the last refresh of the token failed. The token lasts until ",
            )
            .at(until, ".")
        }
        Some(_) if !was_called => {
            say("plain", "Установлено; вызовов ещё не было.", "Installed; there was no call yet.")
        }
        Some(tokens) if tokens.expires_in > 0 => {
            let at = Moment::of(language, tokens.expires_at, now);
            say("good", "Работает; токен обновится сам: ", "Works; the token renews by itself: ").at(at, ".")
        }
        Some(_) => say(
            "good",
            "Работает; токен обновится сам при следующем вызове.",
            "Works; the token renews by itself at the next call.",
        ),
    }
}

/// Calls do not work, for this `error_code`.
fn out_of_order(language: Language, portal: &PortalStatus, reason: &str) -> Sentence {
    let theirs = portal.last_error.as_ref().map_or("", |error| error.bitrix24.as_str());
    let theirs = if theirs.is_empty() { String::new() } else { format!(" ({theirs})") };
    let (russian, english) = match reason {
        "not_installed" => (
            "Нужна установка: её выполняет администратор портала.",
            "Needs installing, by an administrator of the portal.",
        ),
        "reinstall_required" => (
            "Битрикс24 больше не принимает токены: нужна повторная установка.",
            "Bitrix24 no longer accepts the tokens: needs installing again.",
        ),
        "storage_error" if portal.state == Condition::Broken => (
            "Токены повреждены или недоступны; причина и способ исправления указаны в журнале ошибок веб-сервера.",
            "The tokens are damaged or cannot be read; the web server's error log says why and what to mend.",
        ),
        "rate_limited" => {
            let until = portal.page.overloaded.map(|until| Moment::of(language, until, portal.page.now));
            let text = language.pick(
                "Битрикс24 не принимает вызовы портала (OVERLOAD_LIMIT); снимает это только его поддержка. Следующая попытка: ",
                "Bitrix24 accepts no call of this portal (OVERLOAD_LIMIT); only its support lifts that. The next try: ",
            );
            return Sentence { light: "bad", before: text.into(), at: until, after: String::new() };
        }
        "bitrix24_unreachable" => ("Портал недоступен.", "The portal cannot be reached."),
        "bitrix24_timeout" => ("Портал не отвечает вовремя.", "The portal does not answer in time."),
        "bitrix24_bad_answer" => (
            "Вместо портала отвечает что-то другое, или его вебхук не действует.",
            "Something else answers in the portal's place, or its webhook does not work.",
        ),
        "oauth_server_error" => {
            ("Сервер авторизации Битрикс24 не обновляет токены.", "Bitrix24's OAuth server does not renew the tokens.")
        }
        "configuration_error" => (
            "Программа настроена неверно; причина и способ исправления указаны в журнале ошибок веб-сервера.",
            "The configuration cannot be used; the web server's error log says why and what to mend.",
        ),
        "bitrix24_error" => {
            let text = language.pick("Битрикс24 отвечает на вызовы ошибкой", "Bitrix24 answers calls with an error");
            return Sentence::new("bad", format!("{text}{theirs}."));
        }
        other => {
            let text = language.pick("Вызовы не проходят", "Calls do not work");
            return Sentence::new("bad", format!("{text}: {other}."));
        }
    };
    Sentence::new("bad", language.pick(russian, english))
}

fn warnings(language: Language, portal: &PortalStatus) -> Vec<Sentence> {
    let blocked = portal.blocked.iter().map(|(method, until)| {
        let text = language.pick(
            format!("Битрикс24 не принимает метод {method} (исчерпал своё время) до "),
            format!("Bitrix24 refuses the method {method} (it has used up its time) until "),
        );
        Sentence::new("warn", text).at(Moment::of(language, *until, portal.page.now), ".")
    });
    // Where the application must be installed again, nobody need know more.
    let refresh = portal.last_refresh_error.as_ref().filter(|_| portal.reason.as_deref() != Some("reinstall_required"));
    let refresh = refresh.map(|error| {
        let text = language.pick("Ошибка обновления токена, ", "Refresh error, ");
        let at = Moment::of(language, error.at, portal.page.now);
        Sentence::new("warn", text).at(at, &format!(": {}", texts::reason(language, &error.error)))
    });
    blocked.chain(refresh).collect()
}

fn facts(language: Language, portal: &PortalStatus) -> Vec<(&'static str, Sentence)> {
    let moment = |at: i64| Moment::of(language, at, portal.page.now);
    let never = || Sentence::fact(language.pick("ещё не было", "none yet"));
    let at = |at: Option<i64>| at.map_or_else(never, |at| Sentence::default().at(moment(at), ""));
    let mut facts = vec![
        (language.pick("Последний вызов", "Last call"), at(portal.last_call)),
        (language.pick("Последний успешный", "Last success"), at(portal.last_success)),
    ];
    if let Some(error) = &portal.last_error {
        let text = Sentence::fact(format!("{} · ", told(error))).at(moment(error.at), "");
        facts.push((language.pick("Последняя ошибка", "Last error"), text));
    }
    if let Some(event) = &portal.last_event {
        let number = language.pick("№", "number");
        let text = Sentence::fact(format!("{number} {} · ", event.number)).at(moment(event.at), "");
        facts.push((language.pick("Последнее событие", "Last event"), text));
    }
    if let Some(tokens) = &portal.tokens {
        let refreshed = Some(tokens.refreshed_at).filter(|at| *at > 0);
        facts.extend([
            (language.pick("Кто установил", "Installed by"), Sentence::fact(person(tokens.user_id, &tokens.user_name))),
            (language.pick("Установлено", "Installed"), at(Some(tokens.installed_at).filter(|at| *at > 0))),
            (language.pick("Токен действует до", "The token lasts until"), at(Some(tokens.expires_at))),
            (language.pick("Последнее обновление", "Last refresh"), at(refreshed)),
            (language.pick("Права", "Rights"), Sentence::fact(tokens.scope.replace(',', ", "))),
            (language.pick("Адрес", "Address"), Sentence::fact(tokens.client_endpoint.clone())),
        ]);
    }
    facts
}

impl Chart {
    fn of(language: Language, portal: &PortalStatus) -> Chart {
        let hours = &portal.page.by_hour;
        let most = hours.iter().map(|(calls, errors)| *calls.max(errors)).max().unwrap_or(0);
        // What is there at all is seen.
        let high = |count: u64| if count == 0 { 0 } else { (count * HEIGHT / most.max(1)).max(2) };
        let bar = |(hours_ago, (calls, errors)): (usize, &(u64, u64))| Bar {
            title: language.pick(
                format!("{}: вызовов {calls}, ошибок {errors}", ago(language, hours_ago)),
                format!("{}: {calls} calls, {errors} errors", ago(language, hours_ago)),
            ),
            x: (HOURS - 1 - hours_ago) * STEP + 2,
            calls: high(*calls),
            calls_top: HEIGHT - high(*calls),
            errors: high(*errors),
            errors_top: HEIGHT - high(*errors),
        };
        let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        let (hour, day) = (sum(&portal.calls.hour), sum(&portal.calls.day));
        let (hour_errors, day_errors) = (sum(&portal.errors.hour), sum(&portal.errors.day));
        Chart {
            title: language.pick("Вызовы за сутки", "Calls of the day"),
            sum: language.pick(
                format!("За час: {hour}, из них с ошибкой {hour_errors}. За сутки: {day}, из них с ошибкой {day_errors}."),
                format!("In the hour: {hour}, of which {hour_errors} failed. In the day: {day}, of which {day_errors} failed."),
            ),
            bars: hours.iter().enumerate().map(bar).collect(),
            width: HOURS * STEP,
            height: HEIGHT,
            oldest: ago(language, HOURS - 1),
            newest: ago(language, 0),
            most,
            calls: language.pick("вызовы", "calls"),
            errors: language.pick("ошибки", "errors"),
        }
    }
}

/// An hour of the chart.
fn ago(language: Language, hours: usize) -> String {
    match hours {
        0 => language.pick("этот час", "this hour").into(),
        hours => language.pick(format!("{hours} ч назад"), format!("{hours} h ago")),
    }
}

/// Those that have called within the day.
fn by_client(portal: &PortalStatus) -> Vec<ByClient> {
    let called = portal.calls.day.iter().filter(|(_, calls)| **calls > 0);
    let of = |counts: &BTreeMap<String, u64>, name: &String| counts.get(name).copied().unwrap_or(0);
    let counts = called.map(|(name, day)| ByClient {
        name: name.clone(),
        hour: of(&portal.calls.hour, name),
        hour_errors: of(&portal.errors.hour, name),
        day: *day,
        day_errors: of(&portal.errors.day, name),
    });
    counts.collect()
}

impl Limit {
    fn of(language: Language, portal: &PortalStatus) -> Limit {
        let limits = &portal.limits;
        let (level, burst, rate) = (limits.level.ceil(), limits.burst, limits.requests_per_second);
        Limit {
            level: language.pick(
                format!("{}; сейчас занято {level}", texts::pace(rate, burst)),
                format!("{level} of {burst} in use, {rate} a second come free"),
            ),
            filled: (level / burst.max(1.0) * 100.0).clamp(0.0, 100.0) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_moment_is_is_said_in_the_largest_unit() {
        use Language::{English, Russian};
        let now = 1_800_000_000;
        for (unix, russian, english) in [
            (now + 59, "сейчас", "now"),
            (now - 61, "1 мин назад", "1 min ago"),
            (now + 40 * 60, "через 40 мин", "in 40 min"),
            (now - 47 * 3600, "47 ч назад", "47 h ago"),
            (now - 12 * 86_400, "12 дн. назад", "12 d ago"),
        ] {
            let told = [Russian, English].map(|language| relative(language, unix, now).replace('\u{a0}', " "));
            assert_eq!(told, [russian, english]);
        }
        for unix in [i64::MIN, i64::MAX] {
            let moment = Moment::of(English, unix, now);
            assert!(!moment.relative.is_empty() && moment.iso().ends_with('Z'));
        }
        assert_eq!(Moment::of(English, 1_785_585_600, now).iso(), "2026-08-01T12:00Z");
    }
}
