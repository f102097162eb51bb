#!/usr/bin/env bash
# The workflow through a real SLURM (cluster.sh), with a node that dies in the middle of a training.
#     make slurm          root on Debian or its kin; about ten minutes on two cores
# Shown: jobs queue, the dead node's job is requeued and goes on from its checkpoint, and weights, scores and tables are
# those of a local run, bit for bit.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
work="$(mktemp -d)"
cluster="$root/tests/slurm/cluster.sh"
export PATH="$root/.venv/bin:$PATH" PYTHONPATH="$root" OMP_NUM_THREADS=1
python -c 'import snakemake_executor_plugin_slurm' 2> /dev/null || python -m pip install --quiet snakemake-executor-plugin-slurm
trap '"$cluster" stop "$work/slurm"; rm -rf "$work"' EXIT

mkdir -p "$work"/{cluster,local}
cat > "$work/config.yaml" << END
name: cluster
datasets: {phantom: {kind: phantom, size: 48, labelled: [1], train_patients: 8, test_patients: 3}}
methods: [cgs, fixmatch, labelled-only, fully-supervised]
seeds: [0]
network: {width: 8}
training: {iterations: 240, labelled_batch: 4, unlabelled_batch: 4, validate_every: 20, checkpoint_every: 20, device: cpu}
END
"$cluster" start "$work/slurm"

cd "$work/cluster"
snakemake --snakefile "$root/Snakefile" --profile "$root/profiles/slurm" --configfile ../config.yaml --slurm-status-command squeue \
  --slurm-init-seconds-before-status-checks 5 --default-resources mem_mb=1500 runtime=30 > ../snakemake.log 2>&1 &
running=$!

echo "waiting for a checkpoint of CGS"
checkpoint="results/cluster/runs/phantom/1/cgs/0/last.ckpt"
until [ -s "$checkpoint" ]; do
  kill -0 "$running" 2> /dev/null || { cat ../snakemake.log; exit 1; }
  sleep 0.5
done
squeue
log="$(squeue -h -t R -o '%i %N' | while read -r id node; do grep -l 'method cgs ' .snakemake/slurm_logs/*/*/"$id".log 2> /dev/null && echo "$node" && break; done || true)"
node="$(echo "$log" | tail -n 1)"
[ -n "$node" ] || node=node1
echo "killing $node"
"$cluster" kill "$work/slurm" "${node#node}"
sleep 15
sinfo
"$cluster" revive "$work/slurm" "${node#node}"
wait "$running" || { cat ../snakemake.log; exit 1; }
if ! grep -rqs "resumed at iteration" results/cluster/logs/train; then
  echo "no training was resumed" >&2
  exit 1
fi
grep -rhs "resumed at iteration" results/cluster/logs/train

cd ../local
snakemake --snakefile "$root/Snakefile" --cores 2 --configfile ../config.yaml --quiet all > ../local.log 2>&1 || { cat ../local.log; exit 1; }
cd ..
different=0
while IFS= read -r file; do
  cmp "cluster/$file" "local/$file" || different=1
done < <(cd local && { find results/cluster/runs -name '*.safetensors' -o -name scores.csv | sort; ls results/cluster/tables/{main,targets,scores}.csv; })
[ "$different" = 0 ] || exit 1
echo "the cluster's weights, scores and tables are those of a local run, bit for bit"
