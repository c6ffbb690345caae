//! `manifests/crds` says what the Rust types say.
//!
//! `UPDATE_GENERATED=1 cargo test -p upgrade-webhook --test crds` writes the files anew.

use std::path::Path;

#[test]
fn crds_in_manifests_are_those_of_the_types() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds");
    let mut names: Vec<String> = Vec::new();
    for mut crd in upgrade_core::api::crds() {
        let name = crd.metadata.name.clone().expect("a CRD has a name");
        let labels = crd.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/part-of".into(), "kubectl-upgrade".into());
        let yaml = serde_saphyr::to_string(&crd).expect("a CRD serializes");
        let text = format!(
            "# Generated from shared/src/api: UPDATE_GENERATED=1 cargo test -p upgrade-webhook --test crds\n{yaml}"
        );
        let read: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML that can be read");
        assert_eq!(read, serde_json::to_value(&crd).expect("JSON"), "{name}: YAML says the same");
        let path = directory.join(format!("{name}.yaml"));
        names.push(format!("{name}.yaml"));
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, &text).expect("manifests/crds can be written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{} is out of date: UPDATE_GENERATED=1 cargo test -p upgrade-webhook --test crds",
            path.display()
        );
    }
    let mut present: Vec<_> = std::fs::read_dir(&directory)
        .expect("manifests/crds")
        .map(|f| f.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    present.sort();
    names.sort();
    assert_eq!(present, names, "no file without a kind");
}
