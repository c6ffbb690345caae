use super::*;
use proptest::prelude::*;

fn v(text: &str) -> Version {
    Version::parse(text)
}

fn has(range: &str, version: &str) -> bool {
    Range::parse(range).expect(range).contains(&v(version))
}

#[test]
fn versions_are_read_as_they_are_found() {
    assert_eq!(v("v1.2.3"), v("1.2.3"));
    assert_eq!(v(" 1.2.3 ").as_str(), "1.2.3");
    for text in
        ["latest", "v1beta1", "", "v", "1.", "1..2", "main-7f3c2a1", "7f3c2a1", "1.2.3-", "1.a"]
    {
        let opaque = v(text).is_opaque();
        assert_eq!(opaque, text != "1.a", "{text}");
    }
    assert!(v("v1beta1") != v("v1") && v("latest") == v("latest"));
    let four = v("2024.1.5.7");
    assert_eq!((four.major(), four.minor()), (Some(2024), Some(1)));
    assert!(v("99999999999999999999.1").is_opaque(), "numbers that do not fit are a name");
}

#[test]
fn a_vendors_suffix_is_no_prerelease() {
    for text in [
        "1.29.4-gke.1",
        "1.29.4-eks-a1b2c3",
        "1.30.2+k3s1",
        "v1.29.4-aks.3",
        "4.0.0.Final",
        "1.2.3-5-gabc",
    ] {
        assert!(!v(text).is_prerelease(), "{text}");
    }
    for text in [
        "1.30.0-rc.1",
        "1.30.0-alpha.2",
        "1.30.0-beta",
        "1.30.0-RC1",
        "1.3.0-SNAPSHOT",
        "1.30.0-rc.1+k3s1",
        "1.2.3-alpine-rc1",
        "1.2.3-m2",
    ] {
        assert!(v(text).is_prerelease(), "{text}");
    }
    assert!(v("1.29.4") < v("1.29.4-gke.1") && v("1.29.4-gke.9") < v("1.29.4-gke.10"));
    assert!(v("1.30.0-rc.9") < v("1.30.0-rc.10") && v("1.30.0-rc.1") < v("1.30.0"));
    assert!(v("1.30.0-alpha.2") < v("1.30.0-beta") && v("1.30.2+k3s1") < v("1.30.3"));
    assert_eq!(v("1.30.0-rc1"), v("1.30.0-rc.1"));
}

#[test]
fn an_image_says_its_version() {
    let of = |image| Version::of_image(image).map(|v| v.as_str().to_owned());
    assert_eq!(of("repo/web:v1.2.3-alpine").as_deref(), Some("v1.2.3-alpine"));
    assert!(has("1.2.3", "v1.2.3-alpine"));
    assert_eq!(of("repo/web").as_deref(), Some("latest"));
    let digest = format!("repo/web@sha256:{}", "a".repeat(64));
    assert_eq!(of(&digest), None);
    assert_eq!(of("not an image"), None);
}

#[test]
fn what_is_in_a_range() {
    let all = [
        ("v1.0.x - v1.1.x", "v1.1.9", true),
        ("v1.0.x - v1.1.x", "1.2.0", false),
        ("1.30 - 1.34", "1.34.7", true),
        ("1.30 - 1.34", "1.35.0", false),
        ("1.30 - 1.34", "1.34.7-eks-a1b2c3", true),
        ("1.30.0 - 1.34.2", "1.34.3", false),
        (">=1.29", "1.29.0-gke.1", true),
        (">=1.29", "1.29.0-rc.1", false),
        (">=1.29", "1.31.0-rc.1", false),
        (">=1.29.0-rc.1", "1.29.0-rc.2", true),
        ("<2", "2.0.0-rc.1", false),
        ("<2", "1.99.99", true),
        (">=1.2.3 <2.0.0", "1.9.0", true),
        (">=1.2.3, <2.0.0", "2.0.0", false),
        (">= 1.2.3 < 2", "1.2.3", true),
        (">1.29", "1.29.9", false),
        (">1.29", "1.30.0", true),
        ("<=1.29.4", "1.29.4-gke.1", true),
        ("<1.29.4", "1.29.4-gke.1", false),
        (">1.29.4", "1.29.4-gke.1", false),
        (">=1.29.4-gke.5", "1.29.4-gke.4", false),
        (">=1.29.4-gke.5", "1.29.4-gke.10", true),
        (">=1.29.4-gke.5", "1.29.4-eks.9", false),
        ("1.29.x", "1.29.4", true),
        ("~1.2", "1.2.9", true),
        ("~1.2", "1.3.0", false),
        ("~1.2.3", "1.2.2", false),
        ("^1.2", "1.9.0", true),
        ("^1.2", "2.0.0", false),
        ("^0.2.3", "0.3.0", false),
        ("^0.0.3", "0.0.4", false),
        ("4.0.0 || 4.0.1 || 4.1.0", "4.0.1", true),
        ("4.0.0 || 4.0.1 || 4.1.0", "4.0.2", false),
        ("4.0.0, 4.0.1", "4.0.1", true),
        ("*", "latest", true),
        ("v2", "v2", true),
        ("v2", "v1", false),
        ("v1beta1", "v1beta1", true),
        ("v1", "v1beta1", false),
        ("latest", "latest", true),
        ("1.x", "latest", false),
        // A floating tag could be any patch.
        ("1.34.2", "1.34", false),
        (">=1.34.2", "1.34", false),
        ("<=1.34.2", "1.34", false),
        ("1.30 - 1.34", "1.34", true),
    ];
    let wrong: Vec<_> = all.iter().filter(|(r, t, yes)| has(r, t) != *yes).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_range_that_is_none_says_what_would_be_right() {
    let all = [
        ("", "write `*` for any version"),
        ("1.27+", "write `>=1.27`"),
        ("4.0.0 4.0.1", "`4.0.0 || 4.0.1`"),
        (">=2 <1", "ends before it starts"),
        ("1.34 - 1.30", "ends before it starts"),
        ("1.x.3", "a number after a wildcard"),
        ("1.3O", "`1.3O` is no version"),
        (">=latest", "`latest` is no version"),
        (">=1.2 1.5", "mixed"),
        ("1.2 ||", "a side of `||` is empty"),
        (">=1.2<2", "leave a space"),
        ("* - 1.2", "write `<=1.2`"),
    ];
    for (text, says) in all {
        let error = Range::parse(text).expect_err(text).to_string();
        assert!(error.contains(says) && error.contains(&format!("`{text}`")), "{text}: {error}");
    }
    assert!(Range::parse(&"1".repeat(2000)).is_err());
}

#[test]
fn changes_have_a_size_and_a_direction() {
    let of = |a, b| {
        let c = change(&v(a), &v(b));
        (c.size, c.downgrade)
    };
    assert_eq!(of("1.2.3", "v1.2.3"), (Size::None, false));
    assert_eq!(of("1.2.3", "1.2.4"), (Size::Patch, false));
    assert_eq!(of("1.2.3-gke.1", "1.2.3-gke.2"), (Size::Patch, false));
    assert_eq!(of("1.2.3", "1.2.3-rc.1"), (Size::Patch, true));
    assert_eq!(of("1.3.0", "1.2.9"), (Size::Minor, true));
    assert_eq!(of("1.3.0", "2.0.0"), (Size::Major, false));
    assert_eq!(of("1.3.0", "latest"), (Size::Unknown, false));
    assert_eq!(of("latest", "latest"), (Size::None, false));
}

fn numbered_version() -> impl Strategy<Value = String> {
    let suffix = prop_oneof![
        Just(String::new()),
        "-(rc|alpha|beta)\\.?[0-9]{1,2}",
        "-(gke|eks)[.-][0-9a-c]{1,3}",
        "\\+k3s[0-9]",
    ];
    let numbers = prop::collection::vec(0_u64..4, 1..5);
    (any::<bool>(), numbers, suffix).prop_map(|(v, numbers, suffix)| {
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        format!("{}{}{suffix}", if v { "v" } else { "" }, numbers.join("."))
    })
}

fn any_version() -> impl Strategy<Value = String> {
    let numbered = numbered_version();
    prop_oneof![4 => numbered, 1 => "[ -~]{0,12}", 1 => "(latest|v1beta1|main)"]
}

proptest! {
    #[test]
    fn the_order_is_total(a in any_version(), b in any_version(), c in any_version()) {
        let (a, b, c) = (v(&a), v(&b), v(&c));
        prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
        prop_assert_eq!(a == b, a.cmp(&b) == Ordering::Equal);
        let mut sorted = [&a, &b, &c];
        sorted.sort();
        prop_assert!(sorted[0] <= sorted[1] && sorted[1] <= sorted[2] && sorted[0] <= sorted[2]);
    }

    #[test]
    fn what_is_printed_reads_the_same(text in any_version()) {
        let read = v(&text);
        let again = v(&read.to_string());
        prop_assert_eq!(&read, &again);
        prop_assert_eq!(read.as_str(), again.as_str());
    }

    #[test]
    fn a_range_contains_its_ends(a in numbered_version(), b in numbered_version()) {
        let (low, high) = if v(&a) <= v(&b) { (a, b) } else { (b, a) };
        for text in [format!(">={low}"), format!("<={low}"), low.clone(), format!("~{low}"), format!("^{low}")] {
            let range = Range::parse(&text).expect("a range");
            prop_assert!(range.contains(&v(&low)), "{} in {}", low, text);
        }
        // Two builds of one release by two vendors have no order to be between.
        if let Ok(range) = Range::parse(&format!("{low} - {high}"))
            && let (Some(a), Some(b)) = (v(&low).numbers(), v(&high).numbers())
            && (a.vendor == b.vendor || a.compare_plain(b).is_ne())
        {
            // `1` could be 1.9, which is not in `1 - 1.2`.
            let wide = a.is_partial() && (0..a.parts.len()).all(|n| a.part(n) == b.part(n));
            prop_assert!(low == high || wide || range.contains(&v(&low)));
            prop_assert!(range.contains(&v(&high)), "{} - {}", low, high);
        }
    }

    #[test]
    fn no_text_is_too_strange(text in "\\PC{0,40}", other in "\\PC{0,20}") {
        if let Ok(range) = Range::parse(&text) {
            let _ = range.contains(&v(&other));
            prop_assert!(Range::parse(range.as_str()).is_ok());
        }
    }
}
