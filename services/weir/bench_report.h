/* bench_report: a step as the JSON of bench.h, as rows of the table, and as histograms in files. */
#ifndef WEIR_BENCH_REPORT_H
#define WEIR_BENCH_REPORT_H

#include "base/json.h"
#include "bench_step.h"

void bench_report_json(const struct bench_step *step, const struct bench_processes *processes,
                       struct json_writer *writer);
void bench_report_head(void); /* of the table, on stdout */
void bench_report_rows(const struct bench_step *step, const struct bench_processes *processes);
/* PREFIX.<step>.<stage>.hgrm for each stage that has a time. OUTAGE where one cannot be written. */
MUST_CHECK enum outcome bench_report_hdr(const struct bench_step *step, const char *prefix,
                                         struct error *error);

#endif
