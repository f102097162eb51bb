# Every main table and experiment also runs alone, as `snakemake table-acdc`: its results, tables and report.
for target, plan in TARGETS.items():

    rule:
        name:
            f"part_{target.replace('-', '_')}"
        input:
            of_runs(plan["runs"], "scores.csv"),
            audits(plan["datasets"]),
        output:
            f"reports/{PLAN['name']}/{target}/index.html",
        log:
            at(f"logs/targets/{target}.txt"),
        conda:
            "../../environment.yml"
        params:
            config=CONFIG,
            target=target,
            digest=[PLAN["digests"]["tables"], PLAN["digests"]["report"]],
            report=PLAN["report_params"],
        message:
            "report of {params.target}"
        shell:
            "(python -m cgs tables --config {params.config} --only {params.target} && "
            "python -m cgs report --config {params.config} --only {params.target}) > {log} 2>&1"

    rule:
        name:
            target
        input:
            f"reports/{PLAN['name']}/{target}/index.html",
