//! Dates: seconds since the first of January of the year 1, as 1C has them, without a zone.

/// `None`: there is no such date.
pub fn seconds(year: i64, month: i64, day: i64, hour: i64, minute: i64, second: i64) -> Option<i64> {
    let valid = (1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    let valid = valid && (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    let days = days_before(year) + (1..month).map(|month| days_in(year, month)).sum::<i64>() + day - 1;
    valid.then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn days_before(year: i64) -> i64 {
    let years = year - 1;
    years * 365 + years / 4 - years / 100 + years / 400
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `yyyy`, `MM`, `dd`, `HH`, `H`, `mm`, `ss`.
pub fn format(seconds: i64, picture: &str) -> String {
    let days = seconds.div_euclid(86400);
    let mut year = days / 366 + 1;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let (mut day, mut month) = (days - days_before(year), 1);
    while day >= days_in(year, month) {
        day -= days_in(year, month);
        month += 1;
    }
    let time = seconds.rem_euclid(86400);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    [
        ("yyyy", format!("{year:04}")),
        ("MM", format!("{month:02}")),
        ("dd", format!("{:02}", day + 1)),
        ("HH", format!("{hour:02}")),
        ("H", hour.to_string()),
        ("mm", format!("{minute:02}")),
        ("ss", format!("{second:02}")),
    ]
    .iter()
    .fold(picture.to_owned(), |text, (name, value)| text.replace(name, value))
}

#[test]
fn dates_are_those_of_the_calendar() {
    assert_eq!(seconds(1, 1, 1, 0, 0, 0), Some(0));
    // The first second of 1970.
    assert_eq!(seconds(1970, 1, 1, 0, 0, 0), Some(62_135_596_800));
    assert_eq!(seconds(2023, 2, 29, 0, 0, 0), None);
    assert_eq!(seconds(2024, 2, 29, 24, 0, 0), None);
    for text in ["2024-02-29 23:59:59", "2023-12-31 00:00:01", "0001-01-01 07:08:09"] {
        let part = |range: std::ops::Range<usize>| text[range].parse().unwrap();
        let moment = seconds(part(0..4), part(5..7), part(8..10), part(11..13), part(14..16), part(17..19)).unwrap();
        assert_eq!(format(moment, "yyyy-MM-dd HH:mm:ss"), text);
    }
}
