//! Image references, compared by what they mean and not by how they are written.

use oci_spec::distribution::Reference;
use std::fmt;

/// Longest reference that is read; the OCI distribution grammar allows 255 for the name alone.
pub const MAX_LEN: usize = 1024;

/// The registry of a name that gives none, and the name it had before.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];

/// A parsed image reference: registry and repository with defaults filled in, tag and digest.
///
/// Grammar and defaults are those of the distribution reference (`nginx` is
/// `docker.io/library/nginx:latest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(Reference);

/// Why a string is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Longer than [`MAX_LEN`] bytes.
    #[error("image reference is longer than {MAX_LEN} bytes")]
    TooLong,
    /// Not of the form `[registry/]repository[:tag][@digest]`.
    #[error("`{0}` is not an image reference ([registry/]repository[:tag][@digest]): {1}")]
    Malformed(String, String),
}

impl Image {
    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        if text.len() > MAX_LEN {
            return Err(ImageError::TooLong);
        }
        Reference::try_from(text)
            .map(Self)
            .map_err(|e| ImageError::Malformed(text.to_owned(), e.to_string()))
    }

    /// Registry and repository, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.0.resolve_registry(), self.0.repository())
    }

    /// The tag, where one is written or implied.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The digest, where one is written.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// Whether it lies in a registry (`registry.example.com`), or at or below a repository of one
    /// (`registry.example.com/team`).
    ///
    /// A place is whole components: neither a longer host, nor another port, nor a sibling that
    /// begins alike lies in it. A place without a host is one of the default registry, and
    /// `docker.io/x` is the official image `x` as well as everything of the organisation `x`.
    pub fn is_in(&self, place: &str) -> bool {
        let place = place.trim_end_matches('/');
        if place.is_empty() {
            return false;
        }
        let (host, path) = match place.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest),
            None if is_host(place) => (place, ""),
            _ => (HUB[0], place),
        };
        let Some(repository) = self.below(host) else {
            return false;
        };
        let official = || {
            let name = repository.strip_prefix("library/");
            is_hub(host) && name.is_some_and(|name| name == path)
        };
        path.is_empty()
            || repository.strip_prefix(path).is_some_and(|r| r.is_empty() || r.starts_with('/'))
            || official()
    }

    /// Whether an entry of a list of images covers it: one without tag and digest covers the whole
    /// repository, any other exactly what it names.
    ///
    /// Where a digest is written it alone says what runs, so an entry with a tag covers no digest.
    pub fn is_covered_by(&self, entry: &str) -> bool {
        let Ok(covering) = Self::parse(entry) else {
            return false;
        };
        if self.below(covering.0.registry()) != Some(covering.0.repository()) {
            return false;
        }
        let tagged = entry.rsplit('/').next().is_some_and(|last| last.contains(':'));
        match (covering.digest(), self.digest()) {
            (Some(wanted), found) => found == Some(wanted),
            (None, _) if !tagged => true,
            (None, None) => covering.tag() == self.tag(),
            (None, Some(_)) => false,
        }
    }

    /// Its repository, if its registry is this one; hosts have no case.
    fn below(&self, host: &str) -> Option<&str> {
        let (mine, repository) = (self.0.registry(), self.0.repository());
        let same = mine.eq_ignore_ascii_case(host) || is_hub(mine) && is_hub(host);
        // Runtimes take a first component in capitals for a host, and the parser for a part of the
        // repository: it is in no registry that we could name.
        (same && !repository.bytes().any(|b| b.is_ascii_uppercase())).then_some(repository)
    }

    /// What a person would call its version: the tag, else the start of the digest.
    pub fn version(&self) -> String {
        match (self.0.tag(), self.0.digest()) {
            (Some(tag), _) => tag.to_owned(),
            (None, Some(digest)) => digest.chars().take(19).collect(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether the first component of a name is a host, as runtimes read it.
fn is_host(component: &str) -> bool {
    component.contains(['.', ':'])
        || component == "localhost"
        || component.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_hub(host: &str) -> bool {
    HUB.iter().any(|hub| hub.eq_ignore_ascii_case(host))
}

/// Whether two references name the same image.
///
/// Equal text always does. Otherwise both must parse and agree after defaults are filled in;
/// what does not parse equals nothing else.
pub fn same(a: &str, b: &str) -> bool {
    a == b || matches!((Image::parse(a), Image::parse(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn defaults_are_filled_in_before_comparing() {
        assert!(same("nginx", "docker.io/library/nginx:latest"));
        assert!(same("nginx:1.27", "docker.io/library/nginx:1.27"));
        assert!(!same("nginx:1.27", "nginx:1.28"));
        assert!(!same("nginx:1.27", "quay.io/nginx:1.27"));
    }

    #[test]
    fn a_digest_is_part_of_the_image() {
        let digest = format!("nginx:1@sha256:{}", "a".repeat(64));
        assert!(!same("nginx:1", &digest));
        let image = Image::parse(&digest).expect("valid");
        assert_eq!((image.tag(), image.version()), (Some("1"), "1".to_owned()));
    }

    #[test]
    fn what_does_not_parse_equals_only_itself() {
        assert!(same("UPPER case", "UPPER case"));
        assert!(!same("UPPER case", "upper case"));
        assert!(matches!(Image::parse(&"a".repeat(2000)), Err(ImageError::TooLong)));
        assert!(matches!(Image::parse("a b"), Err(ImageError::Malformed(..))));
    }

    fn parsed(text: &str) -> Image {
        Image::parse(text).expect(text)
    }

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_place_is_whole_components() {
        let rows = [
            ("registry.example.com/app:1", "registry.example.com", true),
            ("registry.example.com/app:1", "registry.example.com/", true),
            ("Registry.Example.COM/app:1", "registry.example.com/app", true),
            ("registry.example.com/team/app", "registry.example.com/team", true),
            ("registry.example.com.evil.org/app:1", "registry.example.com", false),
            ("registry.example.com/appevil:1", "registry.example.com/app", false),
            ("registry.example.com/app", "registry.example.com/app/below", false),
            ("registry.example.com:5000/app", "registry.example.com", false),
            ("registry.example.com:5000/app", "registry.example.com:5000", true),
            ("evil.org/registry.example.com/app", "registry.example.com", false),
            ("nginx", "docker.io", true),
            ("nginx", "index.docker.io/library", true),
            ("nginx", "docker.io/library/nginx", true),
            ("nginx", "docker.io/nginx", true),
            ("nginx", "nginx", true),
            ("team/app", "docker.io/team", true),
            ("team/app", "team", true),
            ("docker.io/nginx/evil", "docker.io/library/nginx", false),
            ("localhost/app", "localhost", true),
            ("localhost/app", "docker.io", false),
            // A host in capitals to a runtime, a repository of docker.io to the parser.
            ("EVIL/app", "docker.io", false),
            ("EVIL/app", "EVIL", false),
            ("nginx", "", false),
            ("nginx", "/", false),
            ("nginx", "*", false),
            ("nginx", "https://docker.io", false),
        ];
        for (image, place, expected) in rows {
            assert_eq!(parsed(image).is_in(place), expected, "{image} in {place}");
        }
    }

    #[test]
    fn an_entry_covers_its_repository_or_exactly_what_it_names() {
        let with = |tag: &str| format!("busybox{tag}@{DIGEST}");
        let rows = [
            ("busybox:1".to_owned(), "docker.io/library/busybox".to_owned(), true),
            (with(":1"), "busybox".to_owned(), true),
            ("busybox:1".to_owned(), "busybox:1".to_owned(), true),
            ("busybox".to_owned(), "busybox:latest".to_owned(), true),
            ("busybox:2".to_owned(), "busybox:1".to_owned(), false),
            (with(":1"), "busybox:1".to_owned(), false),
            (with(":1"), with(""), true),
            (with(""), with(":2"), true),
            ("busybox:1".to_owned(), with(":1"), false),
            ("busybox/evil".to_owned(), "busybox".to_owned(), false),
            ("busyboxevil".to_owned(), "busybox".to_owned(), false),
            ("host.example:5000/tool:1".to_owned(), "host.example:5000/tool".to_owned(), true),
            ("HOST.example:5000/tool:1".to_owned(), "host.example:5000/tool".to_owned(), true),
            ("host.example/tool:1".to_owned(), "host.example:5000/tool".to_owned(), false),
            ("busybox".to_owned(), "not an image".to_owned(), false),
        ];
        for (image, entry, expected) in rows {
            assert_eq!(parsed(&image).is_covered_by(&entry), expected, "{image} by {entry}");
        }
    }

    prop_compose! {
        fn host()(host in "[a-z][a-z0-9]{0,5}(\\.[a-z][a-z0-9]{0,5}){1,3}(:[1-9][0-9]{1,3})?") -> String {
            host
        }
    }

    prop_compose! {
        fn path()(path in "[a-z0-9]{1,6}(/[a-z0-9]{1,6}){0,3}") -> String { path }
    }

    proptest! {
        #[test]
        fn a_place_covers_itself_and_what_lies_below(
            host in host(), path in path(), below in path(), tag in "(:[a-z0-9]{1,8})?", digest: bool,
        ) {
            let digest = if digest { format!("@{DIGEST}") } else { String::new() };
            let image = parsed(&format!("{host}/{path}/{below}{tag}{digest}"));
            let shouted = host.to_uppercase();
            for place in [host.clone(), format!("{host}/{path}"), format!("{shouted}/{path}/"),
                format!("{host}/{path}/{below}")] {
                prop_assert!(image.is_in(&place), "{image} in {place}");
            }
            let repository = format!("{host}/{path}/{below}");
            prop_assert!(image.is_covered_by(&repository), "{image} by {repository}");
        }

        #[test]
        fn no_longer_host_and_no_sibling_is_covered(
            host in host(), path in path(), below in path(), more in "[a-z0-9]{1,6}",
        ) {
            let place = format!("{host}/{path}");
            let name = host.split(':').next().unwrap_or_default();
            for other in [
                format!("{name}.{more}.org/{path}"), format!("{more}.{host}/{path}"),
                format!("{more}{host}/{path}"), format!("{host}/{path}{more}"),
                format!("{host}/{path}{more}/{below}"), format!("{host}/{more}x/{path}"),
                format!("{name}:65000/{path}"), format!("evil.org/{name}/{path}"), format!("{more}.io/{name}/{path}"),
            ] {
                if other == place || other.starts_with(&format!("{place}/")) { continue; }
                let image = parsed(&other);
                prop_assert!(!image.is_in(&place), "{other} in {place}");
                prop_assert!(!image.is_covered_by(&place), "{other} by {place}");
                prop_assert!(!same(&other, &place));
            }
        }

        #[test]
        fn what_the_default_registry_lends_can_be_written_or_not(name in "[a-z]{1,8}", tag in "[a-z0-9]{1,8}") {
            let short = format!("{name}:{tag}");
            for long in ["docker.io/library/", "docker.io/", "index.docker.io/library/", "library/"] {
                let long = format!("{long}{short}");
                prop_assert!(same(&short, &long), "{short} and {long}");
                let place = format!("docker.io/library/{name}");
                prop_assert!(parsed(&long).is_in(&place), "{long} in {place}");
            }
            let (latest, sibling) =
                (format!("docker.io/library/{name}:latest"), format!("docker.io/library/{name}x"));
            prop_assert!(same(&name, &latest), "{name}");
            prop_assert!(!parsed(&short).is_in(&sibling), "{short} in {sibling}");
        }

        #[test]
        fn nothing_panics(text in ".{0,40}", place in ".{0,40}") {
            if let Ok(image) = Image::parse(&text) {
                let _ = (image.is_in(&place), image.is_covered_by(&place));
            }
        }
    }
}
