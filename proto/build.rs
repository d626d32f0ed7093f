//! Compiles the .proto files with protox, so that no system `protoc` is needed.

use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["kulprit/v1", "kulprit/worker/v1"] {
        files.extend(protos(&root.join(folder))?);
    }
    let descriptors = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    // What others serve and we only ask is no part of the descriptors that central shows.
    let runtimes = protox::compile(protos(&root.join("kulprit/cri/v1"))?, [root])?;
    tonic_prost_build::configure().compile_fds(runtimes)?;
    Ok(())
}

/// The .proto files of a folder, sorted.
fn protos(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let paths = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files = paths.collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.retain(|path| path.extension().is_some_and(|ext| ext == "proto"));
    files.sort();
    Ok(files)
}
