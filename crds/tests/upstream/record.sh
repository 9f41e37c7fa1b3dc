#!/usr/bin/env bash
# Records upstream's definitions and what its chart renders for the cases of `../chart/cases/`.
# Usage: record.sh VERSION; HELM names the helm program (default: helm).
set -euo pipefail
cd "$(dirname "$0")"
folder=$(go mod download -json "github.com/dapr/dapr@v${1:?the version, for example 1.18.3}" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
chart=$(mktemp -d)
trap 'rm -rf "$chart"' EXIT
cp -r "$folder/charts/dapr/." "$chart/"
chmod -R u+w "$chart"
mkdir -p crds chart
rm -f crds/*.yaml chart/*.yaml
cp "$chart"/crds/*.yaml crds/
for values in ../chart/cases/*.yaml; do
  "${HELM:-helm}" template dapr "$chart" --namespace dapr-system --kube-version 1.30.0 \
    --values "$values" >"chart/$(basename "$values")"
done
