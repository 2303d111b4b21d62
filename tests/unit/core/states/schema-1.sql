BEGIN TRANSACTION;
CREATE TABLE assignment (
    name TEXT PRIMARY KEY, closed_time REAL, record TEXT NOT NULL
) STRICT;
INSERT INTO "assignment" VALUES('11111111-1111-4111-8111-111111111111',NULL,'{"name": "11111111-1111-4111-8111-111111111111", "vm": {"name": "alpha", "uuid": "c0ffee00-0000-4000-8000-000000000001", "state": "RUNNING", "persistent": true, "managed_save": false}, "devices": [{"name": "usb_2_2", "uid": "dev-075cc5d63eedb51c54bdfb79", "alias": "ua-hostdev-bd7662a5eeb4-0", "role": "VISIBLE", "original_driver": "usb", "ours": true, "type": "usb_device", "driver_known": true, "adds_live": false, "adds_config": false, "by_service": true, "awaited": false, "moving": null, "by_libvirt": false}], "state": "ATTACHED", "create_time": 1795663220.316468, "update_time": 1795663221.345919, "group": null, "group_policy": "WHOLE_GROUP", "scope": "AUTO", "live": true, "config": true, "conditions": [{"code": "CONFIG_BY_SERVICE", "message": "another device has the same vendor:product, so hostdevd attaches this one when the VM starts", "time": 1795663221.345919, "device": "usb_2_2", "remedy": ""}], "failure": null, "created_by": "unix", "boot_id": "f0b916e1-264b-5bb9-a9b2-d66c8a2a52bc", "pending_live": false, "pending_config": false, "pending_request": ""}');
INSERT INTO "assignment" VALUES('22222222-2222-4222-8222-222222222222',1.79566322242558789254e+09,'{"name": "22222222-2222-4222-8222-222222222222", "vm": {"name": "alpha", "uuid": "c0ffee00-0000-4000-8000-000000000001", "state": "RUNNING", "persistent": true, "managed_save": false}, "devices": [{"name": "pci_0000_01_00_0", "uid": "dev-83107851e8d6e91c543db073", "alias": "ua-hostdev-b454f82c5857-0", "role": "VISIBLE", "original_driver": "e1000e", "ours": true, "type": "pci", "driver_known": true, "adds_live": false, "adds_config": false, "by_service": false, "awaited": false, "moving": null, "by_libvirt": false}], "state": "DETACHED", "create_time": 1795663221.361632, "update_time": 1795663222.425588, "group": "grp-25acb68cba1f304e539c", "group_policy": "WHOLE_GROUP", "scope": "AUTO", "live": false, "config": false, "conditions": [], "failure": null, "created_by": "unix", "boot_id": "f0b916e1-264b-5bb9-a9b2-d66c8a2a52bc", "pending_live": false, "pending_config": false, "pending_request": ""}');
INSERT INTO "assignment" VALUES('33333333-3333-4333-8333-333333333333',NULL,'{"name": "33333333-3333-4333-8333-333333333333", "vm": {"name": "alpha", "uuid": "c0ffee00-0000-4000-8000-000000000001", "state": "RUNNING", "persistent": true, "managed_save": false}, "devices": [{"name": "pci_0000_04_00_0", "uid": "dev-a8e38934a914a18552d6c542", "alias": "ua-hostdev-f6222a1106ee-0", "role": "VISIBLE", "original_driver": "e1000e", "ours": true, "type": "pci", "driver_known": true, "adds_live": true, "adds_config": true, "by_service": false, "awaited": false, "moving": null, "by_libvirt": false}, {"name": "pci_0000_04_00_1", "uid": "dev-551427853ec09af4d643ecfc", "alias": "ua-hostdev-f6222a1106ee-1", "role": "VISIBLE", "original_driver": "e1000e", "ours": true, "type": "pci", "driver_known": true, "adds_live": true, "adds_config": true, "by_service": false, "awaited": false, "moving": null, "by_libvirt": false}], "state": "ATTACHING", "create_time": 1795663222.439922, "update_time": 1795663222.439922, "group": "grp-4e117cc54063639aac68", "group_policy": "WHOLE_GROUP", "scope": "AUTO", "live": false, "config": false, "conditions": [], "failure": null, "created_by": "unix", "boot_id": "f0b916e1-264b-5bb9-a9b2-d66c8a2a52bc", "pending_live": true, "pending_config": true, "pending_request": "33333333-3333-4333-8333-333333333333"}');
CREATE TABLE identity (uid TEXT PRIMARY KEY, keys TEXT NOT NULL) STRICT;
INSERT INTO "identity" VALUES('dev-83107851e8d6e91c543db073','["pci|0000:00|02.0/00.0|8086:10d3:|", "at|0000:00|02.0/00.0"]');
INSERT INTO "identity" VALUES('dev-a8e38934a914a18552d6c542','["pci|0000:00|04.0/00.0|8086:10d3:|", "at|0000:00|04.0/00.0"]');
INSERT INTO "identity" VALUES('dev-551427853ec09af4d643ecfc','["pci|0000:00|04.0/00.1|8086:10d3:|", "at|0000:00|04.0/00.1"]');
INSERT INTO "identity" VALUES('dev-075cc5d63eedb51c54bdfb79','["usb|46f4:0001|TWIN|08|0000:00/0b.0/00.0|2", "usb-serial|46f4:0001|TWIN", "usb-port|46f4:0001|TWIN|0000:00/0b.0/00.0|2", "at|0000:00/0b.0/00.0|2"]');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "meta" VALUES('epoch','0a40c3a9dc67448b90a6b08c952d15fd');
INSERT INTO "meta" VALUES('revision','10000');
CREATE TABLE request (
    request_id TEXT PRIMARY KEY, caller TEXT NOT NULL, fingerprint TEXT NOT NULL,
    assignment TEXT NOT NULL, failure TEXT, time REAL NOT NULL
) STRICT;
INSERT INTO "request" VALUES('11111111-1111-4111-8111-111111111111','unix','5ae5d0a0a238bd279633853708a783e8292e1d27849c4dc6a82ccfa8d56af9b5','11111111-1111-4111-8111-111111111111',NULL,1.79566322031646800035e+09);
INSERT INTO "request" VALUES('22222222-2222-4222-8222-222222222222','unix','6030fad16435177a7cfe6557e235d0872df60b107ed2d783bf1966c7ef382556','22222222-2222-4222-8222-222222222222',NULL,1.79566322136163210873e+09);
INSERT INTO "request" VALUES('33333333-3333-4333-8333-333333333333','unix','5ca55eecd38ee6dbc030b32fb150248f4067fe3a6166a039de9e173b33c34587','33333333-3333-4333-8333-333333333333',NULL,1.79566322243992209433e+09);
CREATE TABLE step (
    id INTEGER PRIMARY KEY, assignment TEXT NOT NULL, kind TEXT NOT NULL, device TEXT NOT NULL,
    started REAL NOT NULL, ended REAL, outcome TEXT
) STRICT;
INSERT INTO "step" VALUES(1,'11111111-1111-4111-8111-111111111111','ATTACH_LIVE','usb_2_2',1.79566322033205866813e+09,1.79566322033898758889e+09,'done');
INSERT INTO "step" VALUES(2,'22222222-2222-4222-8222-222222222222','ATTACH_CONFIG','pci_0000_01_00_0',1.79566322136508703236e+09,1.79566322137106466295e+09,'done');
INSERT INTO "step" VALUES(3,'22222222-2222-4222-8222-222222222222','HOST_DETACH','pci_0000_01_00_0',1.7956632213758163452e+09,1.79566322138106036192e+09,'done');
INSERT INTO "step" VALUES(4,'22222222-2222-4222-8222-222222222222','ATTACH_LIVE','pci_0000_01_00_0',1.79566322138434100157e+09,1.79566322138843822474e+09,'done');
INSERT INTO "step" VALUES(5,'22222222-2222-4222-8222-222222222222','DETACH_LIVE','pci_0000_01_00_0',1.79566322240947151187e+09,1.79566322241296458242e+09,'done');
INSERT INTO "step" VALUES(6,'22222222-2222-4222-8222-222222222222','DETACH_CONFIG','pci_0000_01_00_0',1.79566322241859626773e+09,1.79566322242222046849e+09,'done');
INSERT INTO "step" VALUES(7,'22222222-2222-4222-8222-222222222222','HOST_REATTACH','pci_0000_01_00_0',1.79566322242599439619e+09,1.79566322242905044553e+09,'done');
INSERT INTO "step" VALUES(8,'33333333-3333-4333-8333-333333333333','ATTACH_CONFIG','pci_0000_04_00_0',1.79566322244727659225e+09,1.79566322245598959921e+09,'done');
INSERT INTO "step" VALUES(9,'33333333-3333-4333-8333-333333333333','ATTACH_CONFIG','pci_0000_04_00_1',1.79566322245706748959e+09,1.79566322246413874628e+09,'done');
INSERT INTO "step" VALUES(10,'33333333-3333-4333-8333-333333333333','HOST_DETACH','pci_0000_04_00_0',1.79566322246968698497e+09,1.7956632224830477237e+09,'done');
INSERT INTO "step" VALUES(11,'33333333-3333-4333-8333-333333333333','HOST_DETACH','pci_0000_04_00_1',1.79566322261410140984e+09,NULL,NULL);
COMMIT;
PRAGMA user_version = 1;
